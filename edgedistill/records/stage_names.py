"""The names of the stages, in their order: what is printed, given to --from and --until, and found in the manifest.

They stand in a module that imports nothing, because `--help` shows them.
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
