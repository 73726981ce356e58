"""The host half is tested with the same tiny models, scripted engine and recorded devices as the device half."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path += [str(REPOSITORY / "tests" / "targets"), str(REPOSITORY / "targets" / "harness")]
sys.path.append(str(REPOSITORY / "tests" / "deploy"))  # sshd.py
