"""The command `check`: raw files through torch, through every artifact, and through an app, and where they part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from edgedistill.check.app import AppFinding, check_app
from edgedistill.check.artifacts import Answered, Compiled, Texts, Timing, answer_pictures, answer_texts
from edgedistill.check.differences import Difference, compare_passes
from edgedistill.check.reference import Pass, Reference, rules_of
from edgedistill.check.texts import read_given, shown, text_settings
from edgedistill.data.images import open_image
from edgedistill.errors import ConfigError, ParityError
from edgedistill.kits.kits import Kit
from edgedistill.records.base import Record
from edgedistill.records.contract import Contract
from edgedistill.records.stages import CompileRecord, ExportRecord, OnnxModel
from edgedistill.runtime.folder import Run, read_settings, require_record, require_tokenizer
from edgedistill.runtime.progress import Reporter

WORDS = {
    "input": "the input of the model differs: decoding, resizing, colours or scaling",
    "tokens": "the tokens differ: the tokenizer, its version, or the longest length",
    "outputs": "the input is the same, but the model's outputs differ: the engine or its precision",
    "answer": "the outputs are the same, but the answers differ: decoding, thresholds, suppression or classes",
}


class Checked(Record):
    """An artifact beside torch: the differences of every picture or text, and what one took.

    `tokenized` is whether the device tokenized the texts; if not, it answered tokens of this machine. None for pictures.
    """

    target: str
    kit: str
    device: str
    precision: str
    differences: tuple[Difference, ...]
    timing: Timing
    tokenized: bool | None = None

    @property
    def parting(self) -> Difference | None:
        """The first sample that is beyond the limits, or None."""
        return next((one for one in self.differences if one.parts is not None), None)


class CheckResult(Record):
    """The result of a check, schema edgedistill.check/1."""

    schema_: Literal["edgedistill.check/1"] = Field(default="edgedistill.check/1", serialization_alias="schema")
    run: str
    contract: Contract
    samples: tuple[str, ...]
    artifacts: tuple[Checked, ...]
    app: tuple[AppFinding, ...] = ()


class CheckOptions(Record):
    """What to check: picture files or texts, the folder of the user's modules, and an app's arrays, if there are any."""

    given: tuple[str, ...]
    code: Path
    app: Path | None = None


def check_run(run: Run, options: CheckOptions, kits: Mapping[str, Kit], report: Reporter) -> CheckResult:
    """Answer pictures or texts with the float student in torch and with every artifact of the student, and compare each step.

    What an app made of pictures is compared too. Raises ConfigError for samples that the model does not take.
    """
    student = float_student(run)
    reference, tokenizer = Reference(run, student, options.code), require_tokenizer(run, student)
    samples = _pictures(options, reference) if tokenizer is None else _texts(options, reference, tokenizer)
    checked, compiled = [], list(compiled_students(run, kits))
    with report.track("check", len(compiled)) as advance:
        for one in compiled:
            checked.append(_checked(one, samples, samples.answer(run, one)))
            advance(1, f"{one.artifact.target} {one.artifact.precision}")
    return CheckResult(
        run=run.folder.name,
        contract=reference.contract,
        samples=samples.given,
        artifacts=tuple(checked),
        app=samples.app,
    )


class _Samples(NamedTuple):
    """Samples as they were given, their names in results, their passes in torch, how artifacts answer them, and an app's findings."""

    given: tuple[str, ...]
    names: tuple[str, ...]
    wanted: list[Pass]
    answer: Callable[[Run, Compiled], Answered]
    app: tuple[AppFinding, ...] = ()


def _pictures(options: CheckOptions, reference: Reference) -> _Samples:
    """Raises ConfigError for two files of one name, which results could not tell apart."""
    rules_of(reference.contract)
    files = tuple(map(Path, options.given))
    if len({file.name for file in files}) < len(files):
        raise ConfigError("check: two picture files have the same name; rename one of them")
    for file in files:
        _require_picture(file)
    wanted = [reference.answer(file) for file in files]
    app = () if options.app is None else check_app(options.app, files, reference.contract, wanted)
    names = tuple(file.name for file in files)
    return _Samples(options.given, names, wanted, lambda run, one: answer_pictures(run, one, files), app)


def _texts(options: CheckOptions, reference: Reference, tokenizer: Path) -> _Samples:
    assert reference.contract.text is not None
    if options.app is not None:
        raise ConfigError(
            "check: --app only applies to pictures; compare the tokens of an app with those of the tokenizer"
        )
    texts = read_given(options.given, reference.contract.text)
    settings = text_settings(reference.contract, tokenizer)
    wanted = [reference.answer_text(one, settings) for one in texts]
    given = Texts(texts, [one.request for one in wanted])
    joined = tuple("\t".join(one) for one in texts)
    names = tuple(map(shown, joined))
    return _Samples(joined, names, wanted, lambda run, one: answer_texts(run, one, given, tokenizer))


def _require_picture(file: Path) -> None:
    from PIL import Image, UnidentifiedImageError

    if not file.is_file():
        raise ConfigError(f"{file}: no such file; name picture files")
    try:
        open_image(file, "RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{file}: is not a readable picture: {error}") from None


def float_student(run: Run) -> OnnxModel:
    """Return the exported float student; raises ConfigError for a run that was exported by an older version."""
    models = require_record(run, ExportRecord).models
    found = next((one for one in models if one.name == "student" and one.precision == "fp32"), None)
    if found is None or found.contract is None:
        raise ConfigError(f"{run.folder}: was exported by an older version; run 'edgedistill export CONFIG' again")
    return found


def compiled_students(run: Run, kits: Mapping[str, Kit]) -> Iterator[Compiled]:
    """Yield the artifacts of the student; raises ConfigError for a run that was not compiled, or a kit that is not here."""
    models = {one.file.sha256: one for one in require_record(run, ExportRecord).models}
    threads = {one["target"]["name"]: one["target"]["threads"] for one in read_settings(run, CompileRecord)["targets"]}
    for artifact in require_record(run, CompileRecord).artifacts:
        model = models.get(artifact.parent)
        if model is None:
            raise ConfigError(
                f"{run.folder}: was compiled before its last export; run 'edgedistill compile CONFIG' again"
            )
        if artifact.name != "student" or model.contract is None:
            continue
        if artifact.kit not in kits:
            raise ConfigError(f"{run.folder}: no kit '{artifact.kit}' here; name its folder with --targets")
        yield Compiled(
            artifact=artifact, kit=kits[artifact.kit], threads=threads[artifact.target], contract=model.contract
        )


def _checked(one: Compiled, samples: _Samples, answered: Answered) -> Checked:
    artifact, task = one.artifact, one.contract.task
    differences = [
        compare_passes(name, ours, theirs, artifact.precision, task)
        for name, ours, theirs in zip(samples.names, samples.wanted, answered.passes, strict=True)
    ]
    return Checked(
        target=artifact.target, kit=artifact.kit, device=artifact.device, precision=artifact.precision,
        differences=tuple(differences), timing=answered.timing, tokenized=None if one.contract.text is None else answered.tokenized,
    )  # fmt: skip


def lines(result: CheckResult) -> Iterator[str]:
    """Yield the result for a person."""
    is_text = result.contract.text is not None
    yield f"{len(result.samples)} {'text' if is_text else 'picture'}(s), each step beside the float student in torch"
    for one in result.artifacts:
        yield f"{one.target}: {one.kit} {one.precision} on {one.device}: {_verdict(one)}"
        if one.tokenized is False:
            yield "  the tokens are those of this machine: the device has no package tokenizers"
        yield from (f"  {each.sample}: {_described(each)}" for each in one.differences)
        took = one.timing
        yield (
            f"  median of a {'text' if is_text else 'picture'}: {took.total_ms:.2f} ms = preprocessing {took.preprocess_ms:.2f} + network "
            f"{took.network_ms:.2f} + postprocessing {took.postprocess_ms:.2f}"
        )
    for finding in result.app:
        yield f"app, {finding.picture}, {finding.step}: {finding.fault or 'as in training'}"


def _verdict(one: Checked) -> str:
    parting = one.parting
    if parting is not None:
        step = "tokens" if parting.parts == "input" and one.tokenized is not None else parting.parts
        return f"differs from torch at {parting.sample}: {WORDS[step or 'input']}"
    return "same input; the answers of int8 differ by its rounding" if one.precision == "int8" else "same answers"


def _described(one: Difference) -> str:
    return f"input within {one.input:.2g}, outputs within {one.outputs:.2g}, {one.answer}"


def require_same(result: CheckResult) -> None:
    """Raise ParityError if an artifact or the app parts from torch."""
    parted = [one for one in result.artifacts if one.parting is not None]
    if parted:
        names = ", ".join(f"{one.target} {one.precision}" for one in parted)
        raise ParityError(
            f"check: {len(parted)} of {len(result.artifacts)} artifacts give other answers than torch: {names}; do not deploy them"
        )
    if faults := [finding for finding in result.app if finding.fault is not None]:
        first = faults[0]
        raise ParityError(
            f"check: the app differs from training in {len(faults)} step(s), first {first.picture}, {first.step}: {first.fault}"
        )
