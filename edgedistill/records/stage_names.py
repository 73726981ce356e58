"""The names of the stages, in order: used in messages, in --from and --until, and in the manifest.

This module imports nothing, because `--help` shows the names.
"""

from typing import Final

DATA: Final = "data"
TEACHER: Final = "teacher"
SOFT_LABELS: Final = "soft_labels"
DISTILL: Final = "distill"
QUANTIZE: Final = "quantize"
EXPORT: Final = "export"
COMPILE: Final = "compile"
BENCH: Final = "bench"
REPORT: Final = "report"
STAGE_NAMES: Final = (DATA, TEACHER, SOFT_LABELS, DISTILL, QUANTIZE, EXPORT, COMPILE, BENCH, REPORT)
