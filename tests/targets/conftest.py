"""The harness is a program, not a package: tests import its modules as it does, and the builders beside them."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parents[1] / "targets" / "harness")]
