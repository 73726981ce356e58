import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.errors import ConfigError, ParityError
from edgedistill.export.onnx_export import export_onnx, save_onnx
from edgedistill.export.parity import compare_outputs, percent, require_parity
from edgedistill.graphs.run import run_onnx

SCORES = np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 250][:, None]


def shifted(by: float, wrong: int = 0) -> np.ndarray:
    """Scores that differ by `by` everywhere, with another answer for the first `wrong` requests."""
    scores = SCORES + np.float32(by)
    scores[:wrong] = np.roll(scores[:wrong], 1, axis=-1)
    return scores


def test_requests_are_run_one_by_one_from_a_file(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2), torch.randn(5, 1, 3)
    save_onnx(export_onnx(model, (x[0],), 18), tmp_path / "model.onnx")
    got = run_onnx(tmp_path / "model.onnx", {"input": x.numpy()})
    assert got["logits"].shape == (5, 1, 2)
    np.testing.assert_allclose(got["logits"], model(x).detach().numpy(), atol=1e-6)
    with pytest.raises(ConfigError, match="at least one"):
        run_onnx(tmp_path / "model.onnx", {"input": x.numpy()[:0]})


@pytest.mark.parametrize(
    ("precision", "got"),
    [("fp32", shifted(9e-4)), ("fp32", shifted(0, wrong=0)), ("int8", shifted(0.5)), ("int8", shifted(0, wrong=20))],
)
def test_outputs_within_the_limits_pass(precision, got):
    require_parity(compare_outputs(SCORES, got), SCORES, precision, "student")


@pytest.mark.parametrize(
    ("precision", "got", "words"),
    [
        ("fp32", shifted(2e-3), r"student \(fp32\).*differ by up to 0.002 \(at most 0.001 required\)"),
        ("fp32", shifted(0, wrong=2), r"agree on 99.80% \(at least 99.9% required\)"),
        ("int8", shifted(0, wrong=21), r"agree on 97.90% \(at least 98.0% required\).*sensitive layers"),
        ("int8", shifted(np.nan), r"differ by up to nan \(finite required\)"),
        ("fp32", shifted(np.nan), "differ by up to nan"),
    ],
)
def test_outputs_beyond_the_limits_say_by_how_much_and_what_next(precision, got, words):
    with pytest.raises(ParityError, match=words) as caught:
        require_parity(compare_outputs(SCORES, got), SCORES, precision, "student")
    assert caught.value.exit_code == 4


def test_the_limit_grows_with_the_outputs():
    expected = SCORES * 100
    require_parity(compare_outputs(expected, expected + np.float32(0.09)), expected, "fp32", "student")
    with pytest.raises(ParityError):
        require_parity(compare_outputs(expected, expected + np.float32(0.2)), expected, "fp32", "student")


def test_outputs_of_another_shape_are_refused():
    with pytest.raises(ParityError, match="shape"):
        compare_outputs(SCORES, SCORES[:, 0])


def test_a_percentage_never_has_hundreds_of_digits():
    assert [percent(one) for one in (0.98765, -0.5, 1e300, -1e300)] == [
        "98.77%", "-50.00%", "more than 10,000%", "less than -10,000%",
    ]  # fmt: skip
    assert percent(float("nan")) == "nan%"
