"""The agreement of two forms of one model."""

from __future__ import annotations

from pydantic import Field

from edgedistill.records.base import Record


class OutputParity(Record):
    """Agreement of two forms of one model on one output; see Parity."""

    max_abs_diff: float
    agreement: float | None


class Parity(Record):
    """Agreement of two forms of one model: `agreement` is the metric of one form, with the outputs of the other as labels.

    For classification that is the fraction of equal top-1 answers, for regression R2, for embedding the mean cosine, for
    multi-label the fraction of equal answers. For a model with several outputs it is the smallest value of `outputs`;
    for outputs without labels the value is 1 - squared error / variance. Outputs that are the same for all samples have no
    agreement, with a `reason`: the value is None if they are reproduced within 1 % or 0.01, and 0 otherwise.
    """

    max_abs_diff: float
    agreement: float | None
    outputs: dict[str, OutputParity] = Field(default_factory=dict)
    reason: str | None = None

    def holds(self, least: float) -> bool:
        """Return whether the agreement is at least a limit; True if there is no agreement to judge."""
        return self.agreement is None or self.agreement >= least
