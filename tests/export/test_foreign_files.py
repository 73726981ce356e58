"""ONNX files of other makers: older forms are read, and what cannot be used is refused in one sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from edgedistill.deploy.onnx_file import prepare_onnx
from edgedistill.errors import ConfigError, LintError
from edgedistill.export.file_records import FileOptions
from edgedistill.export.lint.command import LintOptions, LintResult, run_lint
from edgedistill.export.onnx_file import export_file, quantize_file
from edgedistill.graphs.opset import opset_of
from edgedistill.graphs.read import read_onnx
from edgedistill.graphs.stored import all_nodes
from edgedistill.kits.kits import find_kits
from tests.support.small_onnx import text_model

RNG = np.random.default_rng(0)
READERS: dict[str, Callable[[Path, Path], object]] = {
    "lint": lambda model, _: lint(model),
    "bench": lambda model, _: prepare_onnx(model, model.parent / "out", {}),
    "quantize": lambda model, data: quantize_file(FileOptions(model=model, data=data, shapes={})),
    "export": lambda model, _: export_file(FileOptions(model=model, data=None, shapes={}), "fp32"),
}
"""Each command that reads an ONNX file, from the model and calibration data."""


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.5, shape).astype(np.float32)


def lint(model: Path) -> LintResult:
    return run_lint(LintOptions(model=model, kits=(find_kits()["tensorrt"],)))


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def save_data(path: Path, *shape: int, count: int = 24) -> Path:
    np.savez(path, inputs=RNG.normal(size=(count, *shape)).astype(np.float32))
    return path


def test_a_file_that_lists_its_weights_as_inputs_is_read(tmp_path: Path) -> None:
    """IR version 3 requires it; Upsample and the mask of Dropout are gone from newer operator sets."""
    model = text_model(
        "(float[1, 3, 6, 6] x) => (float[1, 5] y) { a = Conv<pads=[1, 1, 1, 1]>(x, w)"
        ' m = BatchNormalization(a, g, h, mean, var) u = Upsample<mode="nearest">(m, sizes)'
        " p = GlobalAveragePool(u) f = Flatten(p) d, mask = Dropout<ratio=0.5>(f) y = Gemm(d, v, b) }",
        9, w=weights(8, 3, 3, 3), g=weights(8), h=weights(8), mean=weights(8), var=np.abs(weights(8)) + 0.5,
        sizes=np.float32([1, 1, 2, 2]), v=weights(8, 5), b=weights(5),
    )  # fmt: skip
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in model.graph.initializer
    )
    path = save(model, tmp_path / "old.onnx")
    onnx.checker.check_model(str(path))
    assert [value.name for value in read_onnx(path).graph.input] == ["x"]
    data = save_data(tmp_path / "data.npz", 3, 6, 6)
    (written,) = quantize_file(FileOptions(model=path, data=data, shapes={}, kits=(find_kits()["ort"],))).files
    assert written.parity.agreement > 0.9
    (plain,) = export_file(FileOptions(model=path, data=None, shapes={}), "fp32").files
    stored = onnx.load(str(plain.file))
    assert (plain.opset, stored.ir_version, len(stored.graph.input)) == (9, 4, 1)
    onnx.checker.check_model(stored, full_check=True)


def test_a_file_that_names_the_onnx_operators_ai_onnx_is_read(tmp_path: Path) -> None:
    model = text_model(
        "(float[1, 8] x) => (float[1, 4] y) { h = MatMul(x, w) y = If <then_branch = a () => (float[1, 4] t) { t = Relu(h) },"
        " else_branch = b () => (float[1, 4] e) { e = Neg(h) }>(c) }", 17, w=weights(8, 4), c=np.array(True),
    )  # fmt: skip
    model.opset_import[0].domain = "ai.onnx"
    for node in all_nodes(model.graph):
        node.domain = "ai.onnx"
    path = save(model, tmp_path / "net.onnx")
    read = read_onnx(path)
    assert [(one.domain, one.version) for one in read.opset_import] == [("", 17)]
    assert {node.domain for node in all_nodes(read.graph)} == {""}
    order = FileOptions(model=path, data=save_data(tmp_path / "data.npz", 8), shapes={})
    assert list(quantize_file(order).layers.values()) == ["int8"]


def with_functions(*functions: str, count: int = 2) -> onnx.ModelProto:
    """Return a model that calls the first of some functions in ONNX's text form, `count` times."""
    calls = [
        helper.make_node("Block", [f"h{i}", "w"], [f"h{i + 1}"], name=f"block{i}", domain="local") for i in range(count)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("h0", f"h{count}")]
    graph = helper.make_graph(calls, "g", ends[:1], ends[1:], [numpy_helper.from_array(weights(8, 8), "w")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    parsed = [parser.parse_function(text) for text in functions]
    for function in parsed:
        for node in function.node:
            node.name = node.output[0]
    return helper.make_model(graph, opset_imports=imports, functions=parsed, ir_version=8)


def block(last: str, opset: int = 17) -> str:
    return f'<domain: "local", opset_import: ["" : {opset}]> Block (a, w) => (o) {{ product = MatMul(a, w) {last} }}'


def test_the_nodes_of_functions_are_checked_and_quantized(tmp_path: Path) -> None:
    path = save(with_functions(block("o = Relu(product)")), tmp_path / "functions.onnx")
    order = FileOptions(model=path, data=save_data(tmp_path / "data.npz", 8), shapes={})
    assert quantize_file(order).layers == {"product__1": "int8", "product__2": "int8"}
    dynamic = "q, s, z = DynamicQuantizeLinear(product) o = DequantizeLinear(q, s, z)"
    (report,) = lint(save(with_functions(block(dynamic)), tmp_path / "dynamic.onnx")).reports
    found = [(one.node, one.message) for one in report.findings if one.rule == "unsupported"]
    assert [node for node, _ in found] == ["q__1", "q__2"]
    assert found[0][1].startswith("DynamicQuantizeLinear is not supported")


def test_a_function_of_another_operator_set_is_reported_as_not_checked(tmp_path: Path) -> None:
    path = save(with_functions(block("o = Relu(product)", opset=16), count=1), tmp_path / "functions.onnx")
    (report,) = lint(path).reports
    (found,) = report.findings
    assert (found.rule, found.node) == ("foreign-operator", "block0")
    assert found.message.startswith("local:Block is a function of another operator set, and is not checked: ")


@pytest.mark.parametrize("command", READERS)
def test_a_function_that_calls_itself_is_refused(command: str, tmp_path: Path) -> None:
    itself = '<domain: "local", opset_import: ["" : 17, "local" : 1]> Block (a, w) => (o) { o = local.Block(a, w) }'
    path, data = save(with_functions(itself), tmp_path / "net.onnx"), save_data(tmp_path / "data.npz", 8)
    with pytest.raises(
        ConfigError, match=r"net\.onnx: its functions cannot be read: Cycle .*recursive; export the model without"
    ):
        READERS[command](path, data)


def test_a_file_of_a_newer_onnx_is_refused_with_both_versions(tmp_path):
    model = text_model("(float[1, 3] x) => (float[1, 3] y) { y = Relu(x) }", 18)
    model.ir_version = 99
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(
        ConfigError, match=r"newer\.onnx: has IR version 99, but onnx .* reads versions up to \d+; update"
    ):
        read_onnx(tmp_path / "newer.onnx")


def classifier(*, zip_map: bool) -> onnx.ModelProto:
    """Return a linear classifier as skl2onnx writes it; without ZipMap, no operator of it is in the ONNX standard set."""
    outputs = [helper.make_tensor_value_info("label", TensorProto.INT64, [None])]
    nodes = [
        helper.make_node(
            "LinearClassifier", ["X"], ["label", "scores"], domain="ai.onnx.ml", coefficients=[0.1, 0.2, 0.3, -0.4],
            intercepts=[0.0, 0.1], classlabels_ints=[0, 1], post_transform="SOFTMAX",
        )
    ]  # fmt: skip
    if zip_map:
        nodes.append(helper.make_node("ZipMap", ["scores"], ["zipped"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]))
        scores = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
        outputs.append(helper.make_value_info("zipped", helper.make_sequence_type_proto(scores)))
    else:
        outputs.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 2]))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 1)], ir_version=8)


@pytest.mark.parametrize("command", READERS)
def test_a_classifier_with_zip_map_is_refused_with_the_line_that_leaves_it_out(command: str, tmp_path: Path) -> None:
    path = save(classifier(zip_map=True), tmp_path / "zip.onnx")
    data = save_data(tmp_path / "data.npz", 2)
    with pytest.raises(ConfigError, match=r"zip\.onnx: output 'zipped' is a list of .*options=\{\"zipmap\": False\}"):
        READERS[command](path, data)


def test_a_classifier_without_zip_map_is_read(tmp_path: Path) -> None:
    path = save(classifier(zip_map=False), tmp_path / "plain.onnx")
    assert opset_of(read_onnx(path)) == 1
    assert prepare_onnx(path, tmp_path / "out", {}).expected == "plain"


def dense(value: float) -> onnx.ModelProto:
    """Return a dense layer with one weight of a value, behind a mask of -inf that nothing forbids."""
    weight = weights(4, 3)
    weight[2, 1] = value
    return text_model(
        "(float[1, 4] x) => (float[1, 3] y) { t = Transpose(w) h = Gemm<transB=1>(x, t) m = Add(h, mask) y = Max(m, h) }",
        13, w=weight, mask=np.float32([0, -np.inf, 0]),
    )  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("command", [name for name in READERS if name != "lint"])
def test_a_file_with_weights_that_are_not_finite_is_refused(command: str, value: float, tmp_path: Path) -> None:
    path, data = save(dense(value), tmp_path / "dense.onnx"), save_data(tmp_path / "data.npz", 4)
    words = rf"stored tensor 'w', 1 of 12 values are not finite, the first is {value:g}; .* sound checkpoint"
    with pytest.raises(ConfigError, match=words):
        READERS[command](path, data)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_linter_names_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    (report,) = lint(save(dense(value), tmp_path / "dense.onnx")).reports
    assert [(one.rule, one.severity, one.node) for one in report.findings] == [("finite", "error", "w")]


def test_an_infinity_in_a_mask_is_no_fault(tmp_path: Path) -> None:
    path = save(dense(1.0), tmp_path / "dense.onnx")
    assert lint(path).reports[0].findings == ()
    assert prepare_onnx(path, tmp_path / "out", {}).expected == "dense"


@pytest.mark.parametrize("weights_file", [True, False])
@pytest.mark.parametrize("command", READERS)
def test_a_model_above_2_gib_is_refused_before_its_weights_are_read(
    command: str, weights_file: bool, tmp_path: Path
) -> None:
    path, data = tmp_path / "huge.onnx", save_data(tmp_path / "data.npz", 1024)
    if weights_file:
        model = text_model("(float[1, 1024] x) => (float[1, 1] y) { y = MatMul(x, w) }", 17, w=weights(1024, 1))
        (tensor,) = model.graph.initializer
        del tensor.dims[:]
        tensor.dims.extend([1024, 540_000])
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="huge.bin")
        save(model, path)
    with (tmp_path / ("huge.bin" if weights_file else "huge.onnx")).open("ab") as large:
        large.truncate(4 * 1024 * 540_000)  # a file without content: it takes no space on the disk
    with pytest.raises(
        ConfigError, match=r"huge\.onnx: has 2\.06 GiB, and models above 2 GiB are not supported; export it in"
    ):
        READERS[command](path, data)


@pytest.mark.parametrize("command", READERS)
def test_a_tensor_with_too_little_data_is_refused(command: str, tmp_path: Path) -> None:
    model = dense(1.0)
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    stored.raw_data = stored.raw_data[:20]
    path, data = save(model, tmp_path / "dense.onnx"), save_data(tmp_path / "data.npz", 4)
    with pytest.raises(ConfigError, match=r"dense\.onnx: tensor 'w' has 20 bytes, but its shape needs 48; export"):
        READERS[command](path, data)


def test_a_keras_file_with_a_transposed_weight_is_quantized(tmp_path: Path) -> None:
    """onnxslim fails on a Mul after a Conv whose weight is a Transpose; nodes without a name, and two of one name."""
    model = text_model(
        '(float[n, 7, 7, 3] x) => (float[n, 5] y) { t = Transpose<perm=[0, 3, 1, 2]>(x)'
        ' w = Transpose<perm=[3, 2, 0, 1]>(stored) c = Conv<auto_pad="SAME_UPPER">(t, w) k = Mul(c, m) s = Add(k, a)'
        " r = Clip(s, lowest, highest) p = GlobalAveragePool(r) f = Flatten(p) d = MatMul(f, v) y = Add(d, b) }",
        13, stored=weights(3, 3, 3, 8), m=weights(1, 8, 1, 1), a=weights(1, 8, 1, 1), lowest=np.float32(0),
        highest=np.float32(6), v=weights(8, 5), b=weights(5),
    )  # fmt: skip
    model.graph.node[2].name = model.graph.node[8].name = "layer"
    path, data = save(model, tmp_path / "keras.onnx"), save_data(tmp_path / "data.npz", 7, 7, 3)
    result = quantize_file(FileOptions(model=path, data=data, shapes={}, kits=(find_kits()["ort"],)))
    assert set(result.layers.values()) == {"int8"}
    assert result.choices == ()
    assert result.files[0].parity.agreement > 0.9


def test_a_file_that_cannot_be_simplified_is_quantized_and_the_result_says_so(tmp_path: Path) -> None:
    model = text_model(
        "(float[1, 3, 6, 6] x, float[8, 3, 3, 3] w) => (float[1, 5] y) { c = Conv(x, w) k = Mul(c, m)"
        " p = GlobalAveragePool(k) f = Flatten(p) y = Gemm(f, v, b) }",
        13, m=weights(1, 8, 1, 1), v=weights(8, 5), b=weights(5),
    )  # fmt: skip
    path = save(model, tmp_path / "open.onnx")
    np.savez(tmp_path / "data.npz", x=RNG.normal(size=(9, 3, 6, 6)), w=RNG.normal(size=(9, 8, 3, 3, 3)))
    result = quantize_file(FileOptions(model=path, data=tmp_path / "data.npz", shapes={}))
    assert sum(form == "int8" for form in result.layers.values()) == 1
    assert [line for line in result.lines() if line.startswith("onnxslim cannot simplify the model (AttributeError")]


def with_gelu(opset: int = 17) -> onnx.ModelProto:
    """Return two dense layers with the Gelu of ONNX Runtime's optimiser between them."""
    model = text_model(
        "(float[1, 16] x) => (float[1, 5] y) { h = MatMul(x, a) s = Add(h, ab) g = Relu(s) y = MatMul(g, b) }",
        opset, a=weights(16, 32), ab=weights(32), b=weights(32, 5),
    )  # fmt: skip
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "Gelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def test_operators_of_onnx_runtime_pass_through_for_it(tmp_path: Path) -> None:
    path, data = save(with_gelu(), tmp_path / "gelu.onnx"), save_data(tmp_path / "data.npz", 16)
    result = quantize_file(FileOptions(model=path, data=data, shapes={}, kits=(find_kits()["ort"],)))
    assert list(result.layers.values()) == ["int8", "int8"]
    stored = onnx.load(str(result.files[0].file))
    assert "com.microsoft" in {node.domain for node in stored.graph.node}
    assert stored.ir_version == 8
    (plain,) = export_file(FileOptions(model=path, shapes={}, kits=(find_kits()["ort"],)), "fp32").files
    assert plain.warnings == ()


def test_operators_of_onnx_runtime_are_refused_for_tensorrt(tmp_path: Path) -> None:
    path, data = save(with_gelu(), tmp_path / "gelu.onnx"), save_data(tmp_path / "data.npz", 16)
    with pytest.raises(
        LintError, match=r"com\.microsoft:Gelu is not supported: .* instead of ONNX Runtime's optimiser"
    ):
        quantize_file(FileOptions(model=path, data=data, shapes={}, kits=(find_kits()["tensorrt"],)))
    (report,) = lint(path).reports
    assert [(one.rule, one.severity) for one in report.findings] == [("unsupported", "error")]


def quantized(kind: str) -> onnx.ModelProto:
    """Return a small model that another tool quantized."""
    scale, zero, weight = np.float32(0.1), np.uint8(128), np.ones((4, 3), np.int8)
    if kind == "QOperator":
        return text_model(
            "(float[1, 4] x) => (float[1, 3] y) { q = QuantizeLinear(x, s, z)"
            " r = QLinearMatMul(q, s, z, w, s, wz, s, z) y = DequantizeLinear(r, s, z) }",
            13, s=scale, z=zero, w=weight, wz=np.int8(0),
        )  # fmt: skip
    if kind == "dynamic":
        return text_model(
            "(float[1, 4] x) => (float[1, 3] y) { q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, z)"
            " f = Cast<to=1>(i) y = Mul(f, s) }",
            13, w=weight,
        )  # fmt: skip
    if kind == "computed scale":
        return text_model(
            "(float[1, 4] x) => (float[1, 3] y) { m = ReduceMax<keepdims=0>(x) q = QuantizeLinear(x, m, z)"
            " d = DequantizeLinear(q, m, z) y = MatMul(d, w) }",
            13, z=zero, w=weights(4, 3),
        )  # fmt: skip
    return text_model(
        "(float[1, 4] x) => (float[1, 3] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w) }",
        21, s=scale, z=np.uint16(0), w=weights(4, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("QOperator", "QLinearMatMul 'r' computes with integers"),
        ("dynamic", "DynamicQuantizeLinear 'q' computes with integers"),
        ("computed scale", "QuantizeLinear 'q' has a scale 'm' that is computed when the model runs"),
        ("16 bits", "QuantizeLinear 'q' has 16-bit integers"),
    ],
)
def test_quantized_files_that_no_encoding_expresses_are_refused_in_words(kind: str, words: str, tmp_path: Path) -> None:
    path, data = save(quantized(kind), tmp_path / "made.onnx"), save_data(tmp_path / "data.npz", 4)
    assert prepare_onnx(path, tmp_path / "out", {}).expected == "made"
    for make in (
        lambda: quantize_file(FileOptions(model=path, data=data, shapes={})),
        lambda: export_file(FileOptions(model=path, data=data, shapes={}), "int8"),
    ):
        with pytest.raises(ConfigError, match=rf"made\.onnx: {words}.*, which edgedistill does not rewrite"):
            make()
