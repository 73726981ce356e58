"""A finding: something wrong or odd about data, a model, a target or the machine, for `init`, `run`, `doctor` and the report."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from edgedistill.records.base import Record, readable

Severity = Literal["error", "warning", "note"]
"""An error stops the run, with exit code 2; a warning is likely a mistake; a note is a fact that explains a result."""


class Finding(Record):
    """One sentence about one subject.

    `subject` is the key, file, layer or stage that it is about, for example "data.train" or "target 'pc'"; `text` says what
    was found, and for an error or a warning what to do next.
    """

    severity: Severity
    subject: str
    text: str

    @field_validator("subject", "text")
    @classmethod
    def _readable(cls, value: str) -> str:
        """Write names of files that are not UTF-8 as text."""
        return readable(value)

    def __str__(self) -> str:
        """Return the line for a person."""
        return f"{self.severity}: {self.subject}: {self.text}"
