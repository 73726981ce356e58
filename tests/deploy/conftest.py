"""The host half is tested with the same tiny models and the same scripted engine as the device half."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "targets"))
