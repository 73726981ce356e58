"""Kits of one's own, in a folder of kits."""

import re
from pathlib import Path

STRONG = """
name = "strong"
title = "Weak types up to version 10, strong ones from 11 on"
engine = "numpy"
unsupported = ["Softmax"]
package = "numpy"
precisions = ["fp32", "fp16", "int8"]
opset = 17
install = "python3 -m pip install numpy"
[encoding]
x86_64 = "s8-f32"
aarch64 = "s8-f32"
[rules]
uint8-input = "error"
unsupported = "warning"
[[form]]
from = "11"
encoding = "s8-f16"
opset = 19
"""
"""A kit whose engine takes int8 in another form from one version on, and warns where other kits refuse."""


def write_kit(kits: Path, target: str, engine: str = "") -> Path:
    """Add a kit, its `target.toml` and `engine.py`, to a folder of kits, and return that folder."""
    name = re.search(r'^name = "(.+)"$', target, re.MULTILINE)
    assert name is not None
    (kits / name[1]).mkdir(parents=True)
    (kits / name[1] / "target.toml").write_text(target)
    (kits / name[1] / "engine.py").write_text(engine)
    return kits
