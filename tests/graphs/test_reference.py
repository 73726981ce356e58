from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgedistill.distill import predictors
from edgedistill.errors import ConfigError
from edgedistill.graphs.read import read_onnx
from edgedistill.graphs.reference import Reference, RefusedError, open_session
from edgedistill.graphs.run import run_onnx
from tests.support.command import edgedistill
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


def endless(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Return a model with a loop whose condition stays true."""
    shape = [1, 4]
    condition, state = ("c2", "s2") if nodes else ("c", "s")
    body = helper.make_graph(
        nodes, "body",
        [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
         helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []),
         helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(condition, onnx.TensorProto.BOOL, []),
         helper.make_tensor_value_info(state, onnx.TensorProto.FLOAT, shape)],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)], "endless",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor("true", onnx.TensorProto.BOOL, [], [True])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


BODY = [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Mul", ["s", "s"], ["s2"])]
ENDS = "with the outputs y did not end within 0.5 s, and was stopped: a Loop in the model may not end"


@pytest.mark.parametrize("command", [("bench", "--target", "ort"), ("quantize", "--random"), ("lint",)])
def test_a_model_that_never_ends_is_stopped_with_a_sentence(tmp_path: Path, command: tuple[str, ...]) -> None:
    onnx.save(endless(BODY), str(tmp_path / "endless.onnx"))
    limit = {"EDGEDISTILL_INFERENCE_SECONDS": "0.5"}
    done = edgedistill(command[0], "endless.onnx", *command[1:], cwd=tmp_path, **limit)
    assert "Traceback" not in done.stderr
    if command[0] == "bench":
        assert (done.returncode, ENDS in " ".join(done.stderr.split())) == (2, True), done.stderr
    else:
        assert done.returncode in (0, 2), done.stderr


def test_a_loop_without_operators_is_refused(tmp_path: Path) -> None:
    onnx.save(endless([]), str(tmp_path / "empty.onnx"))
    done = edgedistill("bench", "empty.onnx", "--target", "ort", cwd=tmp_path)
    assert (done.returncode, "the Loop that makes 'y' has no operators" in done.stderr) == (2, True), done.stderr


def test_a_loop_without_operators_in_a_function_is_refused(tmp_path: Path) -> None:
    model = endless([])
    imports = [*model.opset_import, helper.make_opsetid("local", 1)]
    model.functions.append(
        helper.make_function("local", "Endless", ["x", "true"], ["y"], model.graph.node, imports[:1])
    )
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Endless", ["x", "true"], ["y"], domain="local"))
    model.opset_import.append(imports[1])
    onnx.save(model, str(tmp_path / "empty.onnx"))
    with pytest.raises(ConfigError, match="the Loop that makes 'y' has no operators"):
        read_onnx(tmp_path / "empty.onnx")


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_time_limit_that_is_no_number_is_refused(tmp_path: Path, text: str) -> None:
    onnx.save(endless(BODY), str(tmp_path / "endless.onnx"))
    done = edgedistill("bench", "endless.onnx", "--target", "ort", cwd=tmp_path, EDGEDISTILL_INFERENCE_SECONDS=text)
    assert (done.returncode, f"EDGEDISTILL_INFERENCE_SECONDS: '{text}' is not a number" in done.stderr) == (2, True)
