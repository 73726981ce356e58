import numpy as np
import pytest

from edgedistill.distill import predictors
from edgedistill.errors import ConfigError
from edgedistill.graphs.reference import Reference, RefusedError, open_session
from edgedistill.graphs.run import run_onnx
from tests.support.small_onnx import text_model

MODEL = text_model("(float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }", 13).SerializeToString()
WRONG = {"x": np.zeros((2, 1, 5), np.float32)}


@pytest.mark.parametrize("refused", [Reference, open_session, lambda content: run_onnx(content, WRONG)])
def test_what_is_no_model_is_refused_on_one_line(refused):
    with pytest.raises(RefusedError, match=r"(?i)protobuf") as caught:
        refused(b"no model")
    assert "\n" not in str(caught.value)


def test_a_request_that_does_not_fit_is_refused_by_every_way_to_run():
    with pytest.raises(RefusedError, match="Got invalid dimensions"):
        Reference(MODEL).run({"x": WRONG["x"][0]})
    with pytest.raises(ConfigError, match="Got invalid dimensions"):
        run_onnx(MODEL, WRONG)
    with pytest.raises(ConfigError, match="same number of requests"):
        run_onnx(MODEL, {"x": WRONG["x"][:0]})


def test_a_teacher_that_is_missing_or_broken_is_named(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for name, reason in (("broken.onnx", "is not an ONNX model"), ("missing.onnx", "No such file")):
        with pytest.raises(ConfigError, match=f"teacher .*{name}: {reason}"):
            predictors.open_session(tmp_path / name)
