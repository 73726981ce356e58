"""Check a model with TensorRT's own compiler, without a GPU: whether it compiles, and the precision of each layer."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from typing import Any, Final, Literal

import onnx

from edgedistill.errors import ConfigError
from edgedistill.export.lint.report import Finding, Report
from edgedistill.export.lint.view import View, label
from edgedistill.records.base import Record
from edgedistill.runtime.scratch import scratch_folder

MODULE: Final = "tensorrt_rtx"
INSTALL: Final = "python3 -m pip install 'edgedistill[trt-check]'"
CAPABILITY: Final = "SM86"  # the nearest to a Jetson Orin's 8.7 that TensorRT-RTX builds for
TIMEOUT_S: Final = 600
GENERATED: Final = {"kgen", "runtime_fusion"}
"""Kernels that the compiler generates; their names list the operators in order."""
PRODUCTS: Final = re.compile(r"Corr|Fc|Gemm|Dot|Matm|Deco|MulSum")
PRECISIONS: Final = {"Int8": "int8", "Half": "fp16", "BFloat16": "bf16", "Float": "fp32"}
LIBRARY_PRODUCTS: Final = {"correlation", "deconv", "gemm"}
ROUNDED: Final = "RounCast"
"""The name part for rounding to integers in a generated kernel; any other cast before a product converts to float."""
RULE: Final = "tensorrt-compiler"
FIX: Final = (
    "fix the findings of 'edgedistill lint --target tensorrt'; do not quantize a layer that still runs in float"
)


class CompiledLayer(Record):
    """One layer of the engine: the types that it reads, computes with and writes, and the ONNX nodes in it.

    `precision` is that of its products or, without products, of its first input; "other" for indices and similar types.
    """

    name: str
    type: str
    precision: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]


class Product(Record):
    """A convolution or matrix product of the file: the type of its stored weight, and its compiled precision."""

    node: str
    operator: str
    stored: Literal["int8", "float"]
    compiled: str | None


class TrtCheck(Record):
    """The compiler's result; `refused` is its error message or how its process ended, and then there are no layers."""

    engine: str
    capability: str
    build_ns: int | None
    refused: str | None
    layers: tuple[CompiledLayer, ...] = ()
    products: tuple[Product, ...] = ()

    @property
    def report(self) -> Report:
        """The findings: a refusal, and each product that is int8 in the file and float in the engine."""
        faults = [] if self.refused is None else [("model", f"TensorRT's compiler refuses the model: {self.refused}")]
        for one in self.products:
            if one.stored == "int8" and one.compiled != "int8":
                got = "is in no layer of the compiler's log" if one.compiled is None else f"runs in {one.compiled}"
                faults.append((one.node, f"this {one.operator}, quantized in the file, {got}"))
        source = f"measured with {self.engine} for compute capability {self.capability}"
        found = (
            Finding(rule=RULE, severity="error", node=node, message=text, source=source, fix=FIX)
            for node, text in faults
        )
        return Report(kit=self.engine, arch=f"compute capability {self.capability}", findings=tuple(found))


def check_with_tensorrt(model: onnx.ModelProto) -> TrtCheck:
    """Compile a model on this CPU in a separate process; a crash of that process counts as a refusal.

    Raises:
        ConfigError: the compiler is not installed; the message has the line that installs it.
    """
    if importlib.util.find_spec(MODULE) is None:
        raise ConfigError(f"TensorRT's compiler is not installed here; {INSTALL}")
    named, original = _numbered(model)
    said = _build(named)
    result = TrtCheck(
        engine=f"tensorrt-rtx {said['version']}",
        capability=f"{CAPABILITY[2:-1]}.{CAPABILITY[-1]}",
        build_ns=said["build_ns"],
        refused=None if said["refused"] is None else _in_words(said["refused"], original),
    )
    layers = tuple(read_layer(line, original) for line in said["layers"])
    return (
        result if result.refused else result.model_copy(update={"layers": layers, "products": _products(model, layers)})
    )


def read_layer(line: str, names: dict[str, str]) -> CompiledLayer:
    """Parse a layer from the compiler's log; `names` maps the nodes' numbers to their names."""
    name, _, rest = line.removeprefix("Name: ").partition(", LayerType: ")
    kind, _, rest = rest.partition(", ")
    parts = re.split(r"(Inputs|Constants|Outputs): \[|, (TacticName|Metadata): ", rest)
    inputs, constants, outputs = (_types(parts, part) for part in ("Inputs", "Constants", "Outputs"))
    nodes = dict.fromkeys(re.findall(r"\[ONNX Layer: (.*?)\]", rest))
    return CompiledLayer(
        name=name, type=kind, precision=_precision(name, kind, inputs, constants), inputs=inputs, constants=constants,
        outputs=outputs, nodes=tuple(names.get(node, node) for node in nodes),
    )  # fmt: skip


def _types(parts: list[str | None], wanted: str) -> tuple[str, ...]:
    text = next((after for part, after in zip(parts, parts[2:], strict=False) if part == wanted), None)
    return tuple(re.findall(r"Datatype: (\w+)", text or ""))


def _precision(name: str, kind: str, inputs: tuple[str, ...], constants: tuple[str, ...]) -> str:
    """Return the precision that a layer computes in.

    A product is int8 if both its data and its weight are. A generated kernel that casts integers before it multiplies
    them computes in float, even if the file stores integers.
    """
    read = [PRECISIONS.get(each, "other") for each in inputs] or ["other"]
    before = _before_product(name, kind)
    if before is None:
        return read[0]
    integers = "int8" in read or ROUNDED in before
    weights = "Int8" in constants or read.count("int8") > 1
    if integers and weights and "Cast" not in before.replace(ROUNDED, ""):
        return "int8"
    return next((each for each in read if each not in {"int8", "other"}), "fp32")


def _before_product(name: str, kind: str) -> str | None:
    """Return the operators that a layer runs before its convolution or matrix product; None if it has no product."""
    if kind not in GENERATED:
        return "" if kind in LIBRARY_PRODUCTS else None
    found = PRODUCTS.search(name)
    return None if found is None else name[: found.start()]


def _products(model: onnx.ModelProto, layers: tuple[CompiledLayer, ...]) -> tuple[Product, ...]:
    """Return the compiled precision of each convolution and matrix product of the file."""
    view = View.of(model)
    stored = {layer.node.output[0] for layer in view.layers if view.dequantizer_of_weight(layer) is not None}
    made: dict[str, str] = {}
    # Kernels around a product list its node too. NVIDIA's own kernel multiplies, or else the first generated kernel.
    for layer in sorted(layers, key=lambda layer: layer.type in GENERATED):
        if _before_product(layer.name, layer.type) is not None:
            made = dict.fromkeys(layer.nodes, layer.precision) | made
    return tuple(
        Product(
            node=label(node),
            operator=node.op_type,
            stored="int8" if node.output[0] in stored else "float",
            compiled=made.get(label(node)),
        )
        for node in [*(layer.node for layer in view.layers), *view.products]
    )


def _numbered(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a copy with numbered nodes, because the compiler writes node names into lists, and the names by number."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = {f"node{number}": label(node) for number, node in enumerate(result.graph.node)}
    for name, node in zip(names, result.graph.node, strict=True):
        node.name = name
    return result, names


def _in_words(refusal: str, names: dict[str, str]) -> str:
    """Return the compiler's message on one line, with the nodes' own names."""
    return re.sub(r"\bnode\d+\b", lambda found: names.get(found[0], found[0]), " ".join(refusal.split()))[:600]


def _build(model: onnx.ModelProto) -> dict[str, Any]:
    """Run the compiler on a model and return its result; a crash or a timeout counts as a refusal."""
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        command = [sys.executable, "-m", "edgedistill.export.trt_build", path.name, CAPABILITY]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return _died(f"it did not end in {TIMEOUT_S} seconds")
    if done.returncode < 0:
        return _died(f"it crashed with {signal.Signals(-done.returncode).name}")
    if done.returncode:
        return _died(f"it failed: {(done.stderr.strip().splitlines() or ['without a message'])[-1]}")
    return dict(json.loads(done.stdout))


def _died(how: str) -> dict[str, Any]:
    return {"version": _installed_version(), "layers": [], "build_ns": None, "refused": how}


def _installed_version() -> str:
    return next((version(name) for name in packages_distributions().get(MODULE, ())), "of an unknown version")
