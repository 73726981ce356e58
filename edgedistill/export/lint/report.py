"""The linter's report on a model, for every engine or for one kit."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from itertools import groupby
from typing import Literal

import onnx

from edgedistill.errors import ConfigError, LintError, nearest
from edgedistill.export.lint.rules import RULES, Rule
from edgedistill.export.lint.view import KitLimits, View
from edgedistill.export.lint.whole import validity
from edgedistill.kits.kits import ARCHITECTURES, Kit, Severity
from edgedistill.records.base import Encoding, Record


class Finding(Record):
    """One fault: the rule, the node (or stored tensor), the fault and its effect, the source, and the fix."""

    rule: str
    severity: Literal["error", "warning"]
    node: str
    message: str
    source: str
    fix: str


class Report(Record):
    """The findings in a model for a kit on an architecture; without a kit, those for every engine."""

    kit: str | None
    arch: str | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """How many findings are warnings."""
        return len(self.findings) - self.errors


def lint(model: onnx.ModelProto, kit: Kit | None = None, arch: str | None = None) -> Report:
    """Check a model for a kit; the default architecture is this machine's or, if the kit lacks it, the kit's first.

    Raises:
        ConfigError: the kit does not know the architecture, or its target.toml names an unknown rule.
    """
    if kit is None:
        view = View.of(model)
        return Report(
            kit=None, arch=None, findings=tuple(_findings(view, {rule.name: rule.severity for rule in RULES}))
        )
    arch = arch or usual_arch(kit)
    findings = _findings(View.of(model, limits_of(kit, arch)), severities(kit))
    return Report(kit=kit.name, arch=arch, findings=tuple(findings))


def limits_of(kit: Kit, arch: str | None = None, encoding: Encoding | None = None) -> KitLimits:
    """Return a kit's limits on one architecture (None: all that the kit has), in one encoding (None: all).

    Raises:
        ConfigError: the kit does not know the architecture.
    """
    archs = tuple(kit.encoding) if arch is None else (arch,)
    forms = [form for each in archs for form in (kit.form_for(each, "0"), *kit.form)]
    return KitLimits.of(kit, [form for form in forms if encoding in {None, form.encoding}])


def severities(kit: Kit) -> dict[str, Severity]:
    """Return the severity of each rule for a kit; raises ConfigError for a rule that does not exist."""
    known = {rule.name: rule.severity for rule in RULES}
    unknown = sorted(kit.rules.keys() - (known.keys() - {"valid"}))  # an invalid file is an error for every engine
    if unknown:
        raise ConfigError(f"{kit.folder / 'target.toml'}: [rules] has no '{unknown[0]}'{nearest(unknown[0], known)}")
    return known | kit.rules


def require_clean(model: onnx.ModelProto, kits: Iterable[Kit], encoding: Encoding | None, name: str) -> tuple[str, ...]:
    """Raise LintError if a model has an error for a kit; return the warnings for all kits, one line for each rule.

    Args:
        model: the model, as it is written.
        kits: the kits that take it.
        encoding: the int8 encoding that it is in; None for float models.
        name: the name of its file.
    """
    warnings: list[str] = []
    for kit, findings in findings_for(model, kits, encoding):
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            raise LintError(
                f"{name}: {_in_a_line(kit, errors)}; the file is not written, because '{kit.name}' "
                f"would not run it correctly: "
                f"{errors[0].fix}"
            )
        warnings += in_lines(kit, findings)
    return tuple(warnings)


def findings_for(
    model: onnx.ModelProto, kits: Iterable[Kit], encoding: Encoding | None
) -> Iterable[tuple[Kit, list[Finding]]]:
    """Yield each kit that takes an encoding (None: float) on any architecture, and the findings for it."""
    for kit in [kit for kit in kits if encoding is None or encoding in _encodings(kit)]:
        yield kit, list(_findings(View.of(model, limits_of(kit, encoding=encoding)), severities(kit)))


def in_lines(kit: Kit, findings: Iterable[Finding]) -> list[str]:
    """Return one line for each rule that has findings for a kit."""
    by_rule = groupby(sorted(findings, key=lambda finding: finding.rule), key=lambda finding: finding.rule)
    return [_in_a_line(kit, list(group)) for _, group in by_rule]


def _in_a_line(kit: Kit, findings: list[Finding]) -> str:
    first, more = findings[0], f", and {len(findings) - 1} more" if len(findings) > 1 else ""
    return f"rule {first.rule} of kit '{kit.name}' at '{first.node}': {first.message}{more}"


def _encodings(kit: Kit) -> set[Encoding]:
    return {*kit.encoding.values(), *(form.encoding for form in kit.form)}


def summary(report: Report) -> str:
    """Return a report in one line."""
    whom = "every engine" if report.kit is None else f"{report.kit}, {report.arch}"
    if not report.findings:
        return "passes the rules that all engines share" if report.kit is None else f"clean for {whom}"
    return f"{_count(report.errors, 'error')}, {_count(report.warnings, 'warning')} for {whom}"


def usual_arch(kit: Kit) -> str:
    """Return this machine's architecture if the kit has it, else the kit's first."""
    machine = ARCHITECTURES.get(platform.machine().lower(), platform.machine())
    return machine if machine in kit.encoding else next(iter(kit.encoding), machine)


def _findings(view: View, severity: dict[str, Severity]) -> Iterable[Finding]:
    """Yield the findings of the rules; for an invalid file only that, because the other rules need a valid file."""
    for rule in RULES:
        level = severity[rule.name]
        if level != "off" and (view.limits is not None or not rule.of_kit):
            faults = list(rule.check(view))
            yield from (_finding(rule, level, *fault) for fault in faults)
            if faults and rule.check is validity:
                return


def _finding(rule: Rule, severity: Literal["error", "warning"], node: str, fault: str) -> Finding:
    return Finding(
        rule=rule.name,
        severity=severity,
        node=node,
        message=f"{fault}: {rule.effect}",
        source=rule.source,
        fix=rule.fix,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
