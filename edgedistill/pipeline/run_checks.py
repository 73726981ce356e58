"""Run checks: every check that can run does, so that one call finds all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from edgedistill.errors import ConfigError, EdgedistillError
from edgedistill.records.finding import Finding, Severity
from edgedistill.runtime.progress import Advance, Reporter
from edgedistill.stages.stage import Sources

LONGEST_SUBJECT: Final = 60
"""A longer text before a colon is the start of a sentence."""
ORDER: Final = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Check:
    """A check, which yields findings or raises EdgedistillError.

    It runs before the `stages`, unless a check that it `needs` found an error. `error` is raised for its errors, and decides
    the exit code.
    """

    name: str
    find: Callable[[Sources], Iterable[Finding]]
    stages: frozenset[str]
    needs: tuple[str, ...] = ()
    error: type[EdgedistillError] = ConfigError


@dataclass(frozen=True, slots=True)
class Examined:
    """All findings, errors first; `error` is what to raise for the errors, or None; `failed` are checks with errors, or not run."""

    findings: tuple[Finding, ...]
    error: type[EdgedistillError] | None
    failed: frozenset[str] = frozenset()

    def require(self) -> None:
        """Raise all errors as one, if there are any."""
        if self.error is not None:
            raise self.error("\n".join(in_words(one) for one in self.findings if one.severity == "error"))

    def tell(self, report: Reporter) -> None:
        """Print the warnings and notes."""
        for one in self.findings:
            if one.severity != "error":
                report.info(str(one) if one.severity == "warning" else in_words(one))


def examine(
    checks: Iterable[Check], sources: Sources, stages: AbstractSet[str], advance: Advance = lambda _steps, _note: None
) -> Examined:
    """Run the checks of some stages; `advance` is called for each check."""
    findings: list[Finding] = []
    failed: set[str] = set()
    kinds: list[type[EdgedistillError]] = []
    for check in checks:
        advance(1, check.name)
        if stages.isdisjoint(check.stages):
            continue
        if not failed.isdisjoint(check.needs):
            failed.add(check.name)
            continue
        found = list(_findings(check, sources))
        findings += found
        if any(one.severity == "error" for one in found):
            failed.add(check.name)
            kinds.append(check.error)
    ordered = sorted(dict.fromkeys(findings), key=lambda one: ORDER.index(one.severity))
    error = ConfigError if ConfigError in kinds else next(iter(kinds), None)
    return Examined(tuple(ordered), error, frozenset(failed))


def _findings(check: Check, sources: Sources) -> Iterator[Finding]:
    try:
        yield from check.find(sources)
    except EdgedistillError as error:
        yield from findings_of(error, check.name)


def attempt(check: Callable[[], object], subject: str) -> Iterator[Finding]:
    """Call a function, and yield what it raises as findings; `subject` is for messages that do not begin with their own."""
    try:
        check()
    except EdgedistillError as error:
        yield from findings_of(error, subject)


def found_by(check: Callable[[], Iterable[Finding]], subject: str) -> Iterator[Finding]:
    """Yield the findings that a function returns, or what it raises as findings, as `attempt`."""
    found: list[Finding] = []
    yield from attempt(lambda: found.extend(check()), subject)
    yield from found


def findings_of(error: EdgedistillError, subject: str) -> Iterator[Finding]:
    """Yield a finding for each line of an error."""
    for line in str(error).splitlines():
        yield finding(line, subject)


def finding(line: str, subject: str, severity: Severity = "error") -> Finding:
    """Return a line as a finding: what is before its first colon is its subject, unless that is a sentence or a value."""
    head, colon, text = line.partition(": ")
    if colon and len(head) <= LONGEST_SUBJECT and not head.startswith("'"):
        return Finding(severity=severity, subject=head, text=text)
    return Finding(severity=severity, subject=subject, text=line)


def in_words(one: Finding) -> str:
    """Return a finding without its severity."""
    return f"{one.subject}: {one.text}"
