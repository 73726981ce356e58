"""What `edgedistill bench` of an ONNX file would measure and write: `--dry-run`. Nothing is written here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from edgedistill.deploy.devices.address import artifact_folder
from edgedistill.deploy.onnx_file import BenchOptions, measurement_name, shapes_for, variant_of
from edgedistill.graphs.random_inputs import Shapes
from edgedistill.graphs.read import fix_shapes, is_quantized, read_sound_onnx
from edgedistill.kits.kits import Kit
from edgedistill.records.base import Record
from edgedistill.runtime.files import sha256_of

SCHEMA: Final = "edgedistill.file_plan/1"


class PlannedModel(Record):
    """A model in its precision; `choices` are the decisions about shapes that the user did not make, one line each."""

    model: Path
    sha256: str
    shapes: Shapes
    choices: tuple[str, ...]
    precision: str

    def lines(self) -> Iterator[str]:
        """Yield the shapes and the choices for a person."""
        yield from (f"input {name}: {'x'.join(map(str, shape))}" for name, shape in self.shapes.items())
        yield from self.choices


class BenchPlan(PlannedModel):
    """What would be measured: a model and its `candidates` on every kit, and the files and folders that would be written."""

    command: Literal["bench"] = "bench"
    candidates: tuple[PlannedModel, ...] = ()
    kits: tuple[str, ...]
    options: BenchOptions
    files: tuple[Path, ...]

    def to_json(self) -> str:
        """Return the plan as JSON of schema edgedistill.file_plan/1."""
        return json.dumps({"schema": SCHEMA, **self.model_dump(mode="json")}, indent=2)

    def lines(self) -> Iterator[str]:
        """Yield the plan for a person."""
        how = self.options
        models = ", ".join(f"{one.model}: {one.precision}" for one in (self, *self.candidates))
        yield (
            f"would bench {models} on {how.device} with {', '.join(self.kits)}; "
            f"{how.processes} processes of {how.seconds:g} s per kit{' and model' if self.candidates else ''}, threads: {how.threads}"
        )
        if how.soak_minutes:
            yield f"then {how.soak_minutes:g} minutes of continuous inference per kit"
        if how.meter is not None:
            yield f"power readings: {how.meter}"
        for one in (self, *self.candidates):
            yield from (f"{one.model}: {line}" if self.candidates else line for line in PlannedModel.lines(one))
        yield from (f"would write {file}" for file in self.files)


def plan_bench(
    models: Mapping[str, Path], kits: Sequence[Kit], options: BenchOptions, folder: Path, shapes: Shapes
) -> BenchPlan:
    """Return what `bench_on_kits` would do with models by name and a run folder; raises ConfigError as `prepare_onnx` does."""
    planned = [_planned(path, shapes_for(path, models.values(), shapes)) for path in models.values()]
    files: list[Path] = []
    for name, one in zip(models, planned, strict=True):
        place = folder / "onnx" if len(models) == 1 else folder / "onnx" / name
        files += [place / f"{one.model.stem}.onnx", place / "io.npz"]
        variant = variant_of(name, one.precision, len(models))
        for kit in kits:
            files.append(folder / "artifacts" / artifact_folder(kit.name, options.device) / variant)
            measured = folder / "measurements" / measurement_name(options.device, kit.name, variant)
            files += [measured.with_name(f"{measured.name}.json"), measured.with_name(f"{measured.name}.npz")]
    first, *others = planned
    return BenchPlan(
        **dict(first), candidates=tuple(others), kits=tuple(kit.name for kit in kits), options=options, files=tuple(files),
    )  # fmt: skip


def _planned(model: Path, shapes: Shapes) -> PlannedModel:
    graph = read_sound_onnx(model)
    fixed, choices = fix_shapes(graph, shapes)
    precision = "int8" if is_quantized(graph) else "fp32"
    return PlannedModel(model=model, sha256=sha256_of(model), shapes=fixed, choices=tuple(choices), precision=precision)
