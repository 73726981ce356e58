"""The layers of a built engine, from TensorRT's inspector or trtexec, with the precision of each layer with weights.

TensorRT's names of types differ by version and by kind of layer: "Row major linear FP32" and
"Thirty-two wide channel vectorized row major Int8 format" until 10, "Float" and "Int8" in generated kernels.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

TYPES = {
    "int8": "int8", "fp32": "fp32", "float": "fp32", "fp16": "fp16", "half": "fp16", "bf16": "bf16",
    "bfloat16": "bf16", "fp8": "fp8", "int4": "int4", "fp4": "fp4",
}  # fmt: skip
KIND = re.compile(rf"\b({'|'.join(TYPES)})\b", re.IGNORECASE)
WEIGHTED = {
    "Convolution", "Deconvolution", "ConvActPool", "FullyConnected", "MatrixMultiply", "CaskConvolution",
    "CaskDeconvolution", "CaskGemmConvolution", "CaskFullyConnected", "CublasConvolution", "CaskGemmMatrixMultiply",
    "CudnnConvolution", "CudnnDeconvolution", "FusedConvActConvolution", "CudaDepthwiseConvolution", "gemm",
    "correlation", "deconv",
}  # fmt: skip
"""Kinds of layers, and of parameters, that multiply."""
GENERATED = {"kgen", "runtime_fusion"}
"""Kernels that TensorRT's compiler generates; their names are the operators in order."""
PRODUCTS = re.compile(r"Corr|Fc|Gemm|Dot|Matm|Deco|MulSum|mha")
ROUNDED = "RounCast"
"""The cast of a generated kernel that rounds to integers; any other cast before a product converts to floats."""
OPAQUE = re.compile(r"Conv|Gemm|MatMul|ForeignNode", re.IGNORECASE)
NAMES_ONLY = "the engine lists its layers by name only; it was not built with detailed profiling verbosity"


class Layer(NamedTuple):
    """One layer of an engine; `precision` is None if not reported, and `multiplies` is true if it is known to have weights."""

    name: str
    type: str
    precision: Optional[str]
    multiplies: bool


def read_layers(text: str) -> List[Layer]:
    """Read the JSON of an inspector (all versions) or of trtexec's --exportLayerInfo; raises ValueError for any other text."""
    # Names of several ONNX layers are separated by control characters, which strict JSON does not allow.
    found = json.loads(text, strict=False).get("Layers", [])
    if not all(isinstance(each, dict) for each in found):
        raise ValueError(NAMES_ONLY)
    return [_layer(each) for each in found]


def count(layers: List[Layer]) -> Tuple[Optional[Dict[str, int]], Optional[str]]:
    """Count layers with weights by precision; return None and the reason if a layer hides its precision."""
    hidden = [layer.name for layer in layers if layer.multiplies and layer.precision is None]
    if hidden:
        return None, f"TensorRT does not report the precision inside {hidden[0][:120]}" + (
            f" and {len(hidden) - 1} more" if len(hidden) > 1 else ""
        )
    counts: Dict[str, int] = {}
    for layer in layers:
        if layer.multiplies and layer.precision is not None:
            counts[layer.precision] = counts.get(layer.precision, 0) + 1
    return counts, None


def _layer(each: Dict[str, Any]) -> Layer:
    name, kind = str(each.get("Name", "")), str(each.get("LayerType", ""))
    read = _tensor_types(each.get("Inputs", []))
    weights = _weights(each)
    if weights is not None:
        return Layer(name, kind, weights, multiplies=True)
    if kind in GENERATED:
        found = PRODUCTS.search(name)
        if found is None:
            return Layer(name, kind, _first(read), multiplies=False)
        constants = _tensor_types(each.get("Constants", []))
        return Layer(name, kind, _of_generated(name[: found.start()], read, constants), multiplies=True)
    fused = kind == "fusion" and "gemm" in str(each.get("TacticName", ""))
    if fused or kind in WEIGHTED or each.get("ParameterType") in WEIGHTED:
        return Layer(name, kind, _first(read), multiplies=True)
    if kind in {"Myelin", "ForeignNode"} or name.startswith("{ForeignNode"):
        return Layer(name, kind, None, multiplies=OPAQUE.search(name) is not None)
    return Layer(name, kind, _first(read), multiplies=False)


def _weights(each: Dict[str, Any]) -> Optional[str]:
    """Return the type of a layer's weights, if it has any: a convolution multiplies in the type of its weights."""
    for key in ("Weights", "ConvWeights"):
        weights = each.get(key)
        if isinstance(weights, dict) and weights.get("Count", 0) and KIND.search(str(weights.get("Type", ""))):
            return _kind(str(weights["Type"]))
    return None


def _of_generated(before: str, read: List[Optional[str]], constants: List[Optional[str]]) -> Optional[str]:
    """Return the precision of a generated kernel's product: int8 if data and weights are, without a cast before the product."""
    integers = "int8" in read or ROUNDED in before
    weights = "int8" in constants or read.count("int8") > 1
    if integers and weights and "Cast" not in before.replace(ROUNDED, ""):
        return "int8"
    return next((each for each in read if each not in {"int8", None}), None if not read else "fp32")


def _tensor_types(tensors: Any) -> List[Optional[str]]:
    """Return the types of tensors: `Format/Datatype` until 10, `Datatype` from 11 on."""
    return [
        _kind(str(each.get("Datatype", each.get("Format/Datatype", "")))) for each in tensors if isinstance(each, dict)
    ]


def _kind(text: str) -> Optional[str]:
    found = KIND.search(text)
    return TYPES[found.group(1).lower()] if found else None


def _first(kinds: List[Optional[str]]) -> Optional[str]:
    return next((kind for kind in kinds if kind is not None), None)


def timed(layers: List[Layer], times_ns: Dict[str, float]) -> List[Dict[str, Any]]:
    """Return the timed layers in the profiler's order, with the inspector's type and precision."""
    known = {layer.name: layer for layer in layers}
    found = []
    for name, duration in times_ns.items():
        layer = known.get(name, Layer(name, "other", None, multiplies=False))
        found.append({"name": name, "type": layer.type, "precision": layer.precision or "other", "ns": duration})
    return found
