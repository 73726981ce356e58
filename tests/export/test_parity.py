import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.errors import ConfigError, ParityError
from edgedistill.export.onnx_export import export_onnx
from edgedistill.export.parity import compare_all, compare_file, compare_outputs, percent, require_all, require_parity
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import save_onnx
from edgedistill.tasks.table import find_task

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


def test_agreement_with_outputs_that_are_the_same_for_all_samples_is_none_with_the_reason():
    task, rng = find_task("regression"), np.random.default_rng(0)
    still = np.full((6, 1, 1), 2.0, np.float32)
    for expected, reason in ((still, "it is the same for all 6 samples"), (still[:1], "there is only one sample")):
        got = expected + rng.uniform(-1e-6, 1e-6, expected.shape).astype(np.float32)
        parity = compare_all({"y": expected}, {"y": got}, "y", task.agreement)
        assert (parity.agreement, parity.reason) == (None, reason)
        require_all(parity, {"y": expected}, "fp32", "student")
    wrong = compare_all({"y": still}, {"y": still + 1}, "y", task.agreement)
    assert wrong.agreement == 0
    with pytest.raises(ParityError, match=r"agree on 0\.00%"):
        require_all(wrong, {"y": still}, "int8", "student")
    varied = still + np.arange(6, dtype=np.float32)[:, None, None]
    several = compare_all({"y": varied, "z": still}, {"y": varied, "z": still}, "y", task.agreement)
    assert (several.agreement, several.reason) == (1.0, "output 'z': it is the same for all 6 samples")
    require_all(several, {"y": varied, "z": still}, "fp32", "student")


def test_rounding_of_an_output_without_content_is_no_disagreement():
    rng = np.random.default_rng(0)
    empty, other = (rng.uniform(0, 3e-7, (8, 1, 16, 16)).astype(np.float32) for _ in range(2))
    error, parity = compare_file({"map": empty}, {"map": other}, classifies=False)
    assert (error, parity.agreement, parity.reason) == (0.0, None, "it is the same for all 8 samples")
    require_parity(parity, empty, "fp32", "simplified")
    faint = empty * 20  # varies by six times the resolution
    error, parity = compare_file({"map": faint}, {"map": faint + other - empty}, classifies=False)
    assert error < 0.1
    assert parity.agreement == 1 - error


def test_a_nan_in_any_output_is_a_difference_that_is_not_finite():
    values = np.random.default_rng(0).normal(size=(6, 1, 3))
    broken = np.where(np.arange(3) == 1, np.nan, values)
    for names in (("y", "z"), ("z", "y")):
        error, parity = compare_file(
            dict.fromkeys(names, values), {name: broken if name == "z" else values for name in names}, classifies=False
        )
        assert np.isnan(parity.max_abs_diff)
        assert np.isfinite(error)  # NaN is no JSON
        assert error > 1e300
        assert parity.agreement < -1e300


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_infinities_that_both_forms_have_are_no_difference():
    values = np.random.default_rng(0).normal(5, 1, (8, 1, 4)).astype(np.float32)
    values[:, 0, 3], values[:3, 0, 0], values[4, 0, 1] = -np.inf, -np.inf, np.nan
    wanted = {"scores": values}
    error, parity = compare_file(wanted, {"scores": values + np.float32(0.1)}, classifies=False)
    assert parity.max_abs_diff == pytest.approx(0.1, rel=1e-5)
    variance = sum(
        np.var(column) * len(column) for column in (values[3:, 0, 0], np.delete(values[:, 0, 1], 4), values[:, 0, 2])
    )
    assert error == pytest.approx(20 * 0.1**2 / variance, rel=1e-4)
    with pytest.raises(ParityError, match=r"differ by up to 0\.1 \(at most 0\.00\d+ required\)"):
        require_parity(parity, values, "fp32", "net")
    moved = np.roll(values, 1, axis=0)
    assert np.isnan(compare_file(wanted, {"scores": moved}, classifies=False)[1].max_abs_diff)
