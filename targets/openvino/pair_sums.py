"""Narrow weights, for processors whose sums of two 8-bit products overflow.

x86 without VNNI adds two products of 8 bits in 16 bits, which saturate: 255 * 127 * 2 > 32767 (https://docs.openvino.ai: "saturation
issue"). Measured on an AMD EPYC with AVX2 only, OpenVINO 2026.4: the two are products of neighbouring input channels, (0, 1),
(2, 3) and so on, at one position of the kernel; a depthwise convolution has no such pair. So the scale of an output channel is
made larger until two such weights of one sign have a sum of at most 128: 255 * 128 < 32767. Most channels keep more than 7
bits: on a MobileNetV1 the squared error is 0.26 %, with 7 bits for all weights 0.44 %.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any, List, Optional

import numpy as np

VNNI = {"avx512_vnni", "avx_vnni"}
REMARK = "narrow weights: this model was compiled on a processor without VNNI, where sums of 8-bit products overflow"
MARK = ["edgedistill", "narrow_weights"]
"""The key that marks a compiled model whose weights were made narrow."""
LARGEST_PAIR = 128
"""The largest sum of two weights; before they are rounded anew, one less."""


def overflows() -> bool:
    """Return whether this processor's 8-bit products overflow: x86 without VNNI. False if that is unknown."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = re.search(r"^flags\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and not VNNI & set(flags.group(1).split())


def narrow(model: Any) -> int:
    """Make int8 weights of a model smaller and their scales larger where sums overflow; return the number of weights."""
    import openvino
    from openvino import opset13

    changed = 0
    for constant in model.get_ops():
        if constant.get_type_name() != "Constant" or constant.get_output_element_type(0) != openvino.Type.i8:
            continue
        converts = [entry.get_node() for entry in constant.output(0).get_target_inputs()]
        scales = [scale_of(convert) for convert in converts]
        if not converts or None in scales or len(constant.get_output_shape(0)) < 2:
            continue
        weight = constant.get_data()
        factor = np.max([_factor(weight, _layer_of(convert)) for convert in converts], 0)
        if (factor == 1).all():
            continue
        for entry, scale in zip(list(constant.output(0).get_target_inputs()), scales):
            old = stored(scale).get_source_output().get_node().get_data().reshape(scale.get_shape())  # type: ignore[union-attr]
            scale.replace_source_output(opset13.constant((old * factor).astype(np.float32)).output(0))  # type: ignore[union-attr]
            entry.replace_source_output(opset13.constant(np.rint(weight / factor).astype(np.int8)).output(0))
        changed += 1
    if changed:
        model.set_rt_info("1", MARK)
    return changed


def _factor(weight: np.ndarray, layer: Any) -> np.ndarray:
    """Return by how much the scales are larger, in a shape that multiplies the weight; `layer` is the input that reads it.

    A weight whose reader is unknown keeps 7 bits, of which no two overflow.
    """
    ones = np.ones([1] * weight.ndim)
    kind = layer.get_node().get_type_name() if layer is not None else ""
    if kind in ("Convolution", "GroupConvolution"):
        channels = weight.ndim - len(layer.get_shape()) + (1 if kind == "Convolution" else 2)
        outputs = tuple(range(channels))
    elif kind == "MatMul" and list(layer.get_shape()) == list(weight.shape):
        rows_first = layer.get_node().get_attributes()["transpose_b"] == (layer.get_index() == 1)
        channels, outputs = (-1, (weight.ndim - 2,)) if rows_first else (-2, (weight.ndim - 1,))
    else:
        return 2 * ones
    if kind == "GroupConvolution" and weight.shape[channels] == 1:
        return ones
    rows = np.moveaxis(weight.astype(np.int32), channels, -1)
    rows = np.concatenate([rows, np.zeros_like(rows[..., :1])], -1)[..., : rows.shape[-1] + rows.shape[-1] % 2]
    signs = [np.maximum(sign * rows, 0) for sign in (1, -1)]
    pairs = np.moveaxis(np.max([part[..., ::2] + part[..., 1::2] for part in signs], 0), -1, channels)
    peak = pairs.max(tuple(axis for axis in range(weight.ndim) if axis not in outputs), keepdims=True)
    return np.where(peak > LARGEST_PAIR, peak / (LARGEST_PAIR - 1), 1.0)


def _layer_of(convert: Any) -> Optional[Any]:
    """Return the input of the layer that reads a dequantized weight, or None."""
    node = convert
    while node.get_type_name() in ("Convert", "Subtract", "Multiply", "Reshape"):
        readers = [one for one in node.output(0).get_target_inputs() if one.get_node().get_type_name() != "ShapeOf"]
        if len(readers) != 1:
            return None
        node = readers[0].get_node()
    return readers[0]


def is_narrow(entry: Path) -> bool:
    """Return whether weights of a compiled model were made narrow."""
    import openvino

    return bool(openvino.Core().read_model(str(entry)).has_rt_info(MARK))


def scale_of(convert: Any) -> Optional[Any]:
    """Return the input of Multiply that has the scale of a dequantized weight (Convert, Subtract of zeros, Multiply), or None."""
    readers: List[Any] = list(convert.output(0).get_target_inputs()) if convert.get_type_name() == "Convert" else []
    if len(readers) == 1 and readers[0].get_node().get_type_name() == "Subtract":
        subtract = readers[0].get_node()
        zeros = stored(subtract.input(1))
        if zeros is None or zeros.get_source_output().get_node().get_data().any():
            return None
        readers = list(subtract.output(0).get_target_inputs())
    if len(readers) != 1 or readers[0].get_node().get_type_name() != "Multiply":
        return None
    scale = readers[0].get_node().input(1 - readers[0].get_index())
    return scale if stored(scale) is not None else None


def stored(entry: Any) -> Optional[Any]:
    """Return the input that reads a constant: this one, or the one behind a Convert or Reshape."""
    node = entry.get_source_output().get_node()
    while node.get_type_name() in ("Convert", "Reshape", "Unsqueeze"):
        entry = node.input(0)
        node = entry.get_source_output().get_node()
    return entry if node.get_type_name() == "Constant" else None
