"""`edgedistill lint`: read a model, repair it on request, check it, and return one record."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from edgedistill.errors import ConfigError, LintError
from edgedistill.export.file_forms import require_no_folder
from edgedistill.export.lint.fix import fix
from edgedistill.export.lint.report import Report, limits_of, lint, usual_arch
from edgedistill.export.trt_check import TrtCheck, check_with_tensorrt
from edgedistill.graphs.read import read_onnx
from edgedistill.kits.kits import Kit
from edgedistill.records.base import Record
from edgedistill.runtime.files import sha256_of, write_atomic

SCHEMA = "edgedistill.lint/1"


class LintOptions(Record):
    """The options of lint: a model, the kits and architecture (None: the usual one) to check it for, and the actions.

    `others` are the kits to check it for if `kits` is empty; their warnings are only counted.
    """

    model: Path
    kits: tuple[Kit, ...]
    others: tuple[Kit, ...] = ()
    arch: str | None = None
    compile: bool = False
    fix: bool = False
    output: Path | None = None


class Repair(Record):
    """The repaired file (None without changes), the changes, and the faults that have no exact repair."""

    file: Path | None
    changes: tuple[str, ...]
    inexact: tuple[str, ...]


class LintResult(Record):
    """The reports on the model or, after a repair, on the repaired file: for the requested kits or, without any, for all others."""

    model: Path
    sha256: str
    reports: tuple[Report, ...]
    others: tuple[Report, ...]
    repair: Repair | None
    compiler: TrtCheck | None

    @property
    def binding(self) -> tuple[Report, ...]:
        """The reports that decide the exit code: those for the kits, and the compiler's if it ran."""
        return (*self.reports, *self.others, *(() if self.compiler is None else (self.compiler.report,)))


def run_lint(options: LintOptions) -> LintResult:
    """Check a model, and repair and compile it if the options say so.

    Raises:
        ConfigError: the file cannot be read, the repaired file would overwrite it, or the compiler is not installed.
    """
    model, path, repair = read_onnx(options.model), options.model, None
    if options.fix:
        model, repair = _repaired(options, model)
        path = repair.file or path
    return LintResult(
        model=path,
        sha256=sha256_of(path),
        reports=tuple(lint(model, kit, options.arch) for kit in (options.kits or (None,))),
        others=tuple(lint(model, kit) for kit in options.others),
        repair=repair,
        compiler=check_with_tensorrt(model) if options.compile else None,
    )


def _repaired(options: LintOptions, model: onnx.ModelProto) -> tuple[onnx.ModelProto, Repair]:
    if len(options.kits) > 1:
        raise ConfigError(
            "--fix writes one file for one kit: give one --target, or none to repair the faults for every engine"
        )
    limits = limits_of(options.kits[0], options.arch or usual_arch(options.kits[0])) if options.kits else None
    output, fixed = _output(options), fix(model, limits)
    if fixed.changes:
        write_atomic(output, fixed.model.SerializeToString(deterministic=True))
    file = output if fixed.changes else None
    return fixed.model, Repair(file=file, changes=fixed.changes, inexact=fixed.inexact)


def to_json(result: LintResult) -> str:
    """Return a result as JSON of schema edgedistill.lint/1."""
    return json.dumps({"schema": SCHEMA, **result.model_dump(mode="json")}, indent=2)


def require_no_errors(result: LintResult) -> None:
    """Raise LintError (exit code 4) if a report has an error."""
    decisive = [one for one in result.binding if result.repair is None or one not in result.others]
    failed = [
        report for report in decisive if report.errors
    ]  # a repair without a kit is of the faults for every engine
    if not failed:
        return
    own = [report.kit for report in failed if report in result.others and report.kit is not None]
    where = f" on {', '.join(own)}" if own and len(own) == len(failed) else ""
    only = "; --target KIT checks for one kit" if own else ""
    raise LintError(
        f"{result.model}: do not deploy this file{where} before its errors are gone; --fix repairs what it can{only}"
    )


def _output(options: LintOptions) -> Path:
    require_no_folder(options.output)
    output = options.output or options.model.with_name(f"{options.model.stem}-fixed.onnx")
    if output.resolve() == options.model.resolve():
        raise ConfigError(f"{output}: would overwrite the input model; choose another file with -o")
    return output
