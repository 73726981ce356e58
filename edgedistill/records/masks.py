"""The reserved values of masks, which hold the class of each pixel as uint8."""

from __future__ import annotations

from typing import Final

VOID: Final = 255
"""The label of pixels that count for nothing."""
INVALID: Final = 254
"""The answer for pixels whose logits are not finite."""
