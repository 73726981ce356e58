"""Any ONNX file: give it fixed shapes, random inputs and reference outputs, and measure it on a kit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from edgedistill.deploy.devices.address import artifact_folder, parse_address
from edgedistill.deploy.devices.transport import Progress
from edgedistill.deploy.harness import Compilation, compile_models, run_bench
from edgedistill.deploy.progress_words import Voice
from edgedistill.errors import ConfigError, DeviceError
from edgedistill.export.detector_file import (
    PROBED,
    DetectorOptions,
    FileSamples,
    find_detector,
    picture_size,
    read_data,
)
from edgedistill.export.file_forms import fix_file_shapes
from edgedistill.export.labelled import metric_of, require_scores
from edgedistill.graphs.random_inputs import Shapes, random_inputs
from edgedistill.graphs.read import is_quantized, read_sound_onnx
from edgedistill.graphs.reference import Reference, RefusedError
from edgedistill.graphs.run import recorded, stacked
from edgedistill.graphs.write import save_onnx
from edgedistill.kits.kits import Kit
from edgedistill.records.base import Record
from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.measurement import Measurement, ModelIdentity
from edgedistill.runtime.arrays import write_arrays
from edgedistill.runtime.files import sha256_of
from edgedistill.tasks.detection import TASK as DETECTION
from edgedistill.tasks.detector_forms import decoder_array, requests_of

if TYPE_CHECKING:
    import numpy as np

    from edgedistill.data.requests import Samples

REQUESTS = 8

FIXED_SHAPES: Final = "fixed_shapes"
"""The key in the lineage of an ONNX file's measurement for the copy with fixed shapes, from which it was compiled."""


class BenchOptions(Record):
    """Where and how to measure: fresh processes, seconds of steady inference in each, minutes of sustained inference.

    `meter` is the CSV file of an external power meter; `passes` are what is measured beside latency.
    """

    device: str = "local"
    threads: int = 1
    processes: int = 5
    seconds: float = 1.0
    caches: Literal["warm", "cold"] = "warm"
    soak_minutes: float = 0.0
    meter: Path | None = None
    passes: tuple[str, ...] = ("null_model", "throughput", "layers", "energy")


class BenchData(Record):
    """Real inputs to measure with, and how a detector's outputs are read."""

    path: Path
    detector: DetectorOptions = DetectorOptions()


class PreparedModel(Record):
    """An ONNX file ready to be measured; `choices` says what was decided for the user, one line each.

    `model` has fixed shapes and no external data; `sha256` is the file's as given; `expected` its key in `io`;
    `precision` is int8 for a file with quantized operators, and `metric` compares its outputs with labels.
    """

    name: str
    model: Path
    sha256: str
    shapes: dict[str, tuple[int, ...]]
    choices: tuple[str, ...]
    precision: str
    io: Path
    expected: str | None
    reasons: dict[str, str]
    metric: str | None = None


def prepare_models(
    models: Mapping[str, Path], folder: Path, shapes: Shapes, data: BenchData | None = None
) -> list[PreparedModel]:
    """Prepare ONNX files by name, with random inputs or `data`; several files are prepared in separate folders.

    Each model gets the shapes of the inputs that it has; raises ConfigError for the name of an input that no model has.
    """
    prepared = []
    for name, model in models.items():
        place = folder if len(models) == 1 else folder / name
        prepared.append(prepare_onnx(model, place, shapes_for(model, models.values(), shapes), data))
    return [one.model_copy(update={"name": name}) for one, name in zip(prepared, models, strict=True)]


def shapes_for(model: Path, models: Collection[Path], shapes: Shapes) -> Shapes:
    """Return the shapes of the inputs that a model has, and those of inputs that no model has, which its check refuses."""
    if len(models) == 1 or not shapes:
        return shapes
    inputs = {path: {value.name for value in read_sound_onnx(path).graph.input} for path in models}
    known = set().union(*inputs.values())
    return {name: shape for name, shape in shapes.items() if name in inputs[model] or name not in known}


def prepare_onnx(model: Path, folder: Path, shapes: Shapes, data: BenchData | None = None) -> PreparedModel:
    """Write a fixed-shape copy and recorded inputs into `folder`; `shapes` overrides the inputs' shapes by name.

    Raises ConfigError for a file that is no ONNX model, an unknown input name, shapes that the model cannot take, or data that does
    not fit the model.
    """
    fixed, io = folder / f"{model.stem}.onnx", folder / "io.npz"
    if fixed.resolve() == model.resolve():
        raise ConfigError(f"{model}: its fixed-shape copy would replace it; use another folder than {folder}")
    graph = read_sound_onnx(model)
    samples, about = (None, FileSamples()) if data is None else read_data(data.path, graph, data.detector, shapes)
    resolved, choices = fix_file_shapes(graph, shapes, samples)
    folder.mkdir(parents=True, exist_ok=True)
    save_onnx(graph, fixed)
    inputs = random_inputs(graph, resolved, REQUESTS) if samples is None else samples.requests
    expected, problem = _reference(fixed, inputs)
    judged = _Judged() if samples is None or data is None else _judged(samples, about, data, expected)
    _save_io(io, inputs, model.stem, expected, judged.arrays)
    reason = "the inputs are random" if samples is None else "the inputs have no labels"
    return PreparedModel(
        name=model.stem, model=fixed, sha256=sha256_of(model), shapes=resolved,
        choices=(*choices, *about.remarks, *judged.remarks, *_remarks(expected, "random inputs" if samples is None else "inputs")),
        precision="int8" if is_quantized(graph) else "fp32", io=io, expected=model.stem if expected else None,
        reasons=({} if "labels" in judged.arrays else {"accuracy": reason}) | ({"parity": problem} if problem else {}),
        metric=judged.metric,
    )  # fmt: skip


class _Judged(NamedTuple):
    """How outputs are judged: the metric, arrays beside the inputs, and remarks for the user."""

    metric: str | None = None
    arrays: dict[str, np.ndarray] = {}  # noqa: RUF012 - never changed
    remarks: tuple[str, ...] = ()


def _judged(samples: Samples, about: FileSamples, data: BenchData, expected: dict[str, np.ndarray]) -> _Judged:
    """Return how outputs for samples are judged: those of a detector by its detections, others by labels if there are some."""
    labels = {} if samples.labels is None else {"labels": samples.labels}
    if data.detector.decode is None and samples.label_form != "boxes":
        if expected:
            require_scores(data.path, samples, next(iter(expected.values())))
        return _Judged(metric_of(samples), labels)
    if not expected:
        return _Judged(None, {}, ("the outputs are not read as detections, because ONNX Runtime refuses the model",))
    found = find_detector(requests_of(expected, PROBED), about, data.detector, picture_size(samples))
    return _Judged(DETECTION.metric, labels | decoder_array(found.decoder), (f"outputs, {found.text}",))


def bench_onnx(
    prepared: PreparedModel, kit: Kit, options: BenchOptions, folder: Path, progress: Progress
) -> Measurement:
    """Compile and measure a prepared model on one device; raises DeviceError with the engine's words if it fails."""
    ((_, _, result),) = bench_on_kits([prepared], [kit], options, folder, progress)
    if isinstance(result, str):
        raise DeviceError(result)
    return result


def bench_on_kits(
    models: Sequence[PreparedModel], kits: Sequence[Kit], options: BenchOptions, folder: Path, progress: Progress
) -> list[tuple[str, str, Measurement | str]]:
    """Measure prepared models with several kits, in turns; return each model's and kit's names, and its result or error text."""
    variants = [(model, variant_of(model.name, model.precision, len(models))) for model in models]
    places = [(model, variant, kit) for model, variant in variants for kit in kits]
    works = [
        Compilation(
            kit=kit, model=model.model, precision=model.precision, threads=options.threads, address=options.device,
            out=folder.resolve() / "artifacts" / artifact_folder(kit.name, options.device) / variant,
        )
        for model, variant, kit in places
    ]  # fmt: skip
    compiled = list(zip(places, works, compile_models(works, progress), strict=True))
    arms = [
        _arm(measurement_name(options.device, kit.name, variant), model, work, made)
        for (model, variant, kit), work, made in compiled
        if isinstance(made, dict)
    ]
    job = BenchJob(
        arms=tuple(arms), processes=options.processes, seconds=options.seconds, soak_seconds=60 * options.soak_minutes,
        meter=None if options.meter is None else str(options.meter.resolve()), passes=options.passes,
        caches=options.caches,
    )  # fmt: skip
    names = {
        measurement_name(options.device, kit.name, variant): f"{model.name}, {kit.name}"
        for model, variant, kit in places
    }
    voice = Voice(progress, names, "accuracy" if models[0].metric == "top1" else str(models[0].metric))
    measured = dict(run_bench(job, folder, voice)) if arms else {}
    return [
        (model.name, kit.name, str(made) if isinstance(made, DeviceError) else measured[measurement_name(options.device, kit.name, variant)])
        for (model, variant, kit), _, made in compiled
    ]  # fmt: skip


def variant_of(name: str, precision: str, models: int) -> str:
    """Return how files of a model are named: by its precision, and by its name where there are several models."""
    return precision if models == 1 else f"{name}-{precision}"


def measurement_name(device: str, kit: str, variant: str) -> str:
    """Return the name of a measurement of an ONNX file, which is that of its arm."""
    return f"{parse_address(device).label}-{kit}-{variant}"


def _arm(name: str, prepared: PreparedModel, work: Compilation, made: dict[str, Any]) -> Arm:
    """Return the arm of a job for a compiled model."""
    files = [work.out / file for file in made["files"]]
    return Arm(
        name=name, target=work.kit.name, address=work.address, kit=work.kit.name, kit_dir=str(work.kit.folder),
        precision=work.precision, threads=work.threads, entry=str(work.out / made["entry"]),
        files=tuple(str(file) for file in files), size_bytes=sum(file.stat().st_size for file in files),
        model=ModelIdentity(name=prepared.name, sha256=prepared.sha256, lineage={FIXED_SHAPES: sha256_of(prepared.model)}), io=str(prepared.io.resolve()),
        expected=prepared.expected, metric=prepared.metric, reasons=prepared.reasons,
    )  # fmt: skip


def _reference(model: Path, inputs: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str | None]:
    """Return outputs of the graph as written, or why ONNX Runtime, which computes them, refuses the model."""
    try:
        reference = Reference(model)
        count = len(next(iter(inputs.values())))
        answers = [reference.run({name: array[i] for name, array in inputs.items()}) for i in range(count)]
    except RefusedError as error:
        return {}, f"ONNX Runtime, which computes the outputs to compare with, refuses the model: {error}"
    return stacked(answers), None


def _remarks(expected: dict[str, np.ndarray], kind: str) -> Iterator[str]:
    """Yield a warning for each reference output that no comparison can judge; `kind` says what the inputs are."""
    import numpy as np

    from edgedistill.tasks.chance import is_constant

    for name, values in expected.items():
        if not np.isfinite(values).all():
            yield f"warning: output '{name}' has NaN or infinity for {len(values)} {kind}; check the weights and the input shapes"
        elif is_constant(values):
            yield (
                f"warning: output '{name}' is the same for {len(values)} {kind}, so agreement says nothing about it; check the "
                "model, or measure it in a run with real data"
            )


def _save_io(
    path: Path, inputs: dict[str, np.ndarray], key: str, expected: dict[str, np.ndarray], more: dict[str, np.ndarray]
) -> None:
    arrays: dict[str, Any] = recorded(inputs)
    arrays |= {f"expected.{key}.{name}": array for name, array in expected.items()} | more
    write_arrays(path, arrays)
