"""What `edgedistill bench` of an ONNX file would measure and write: `--dry-run`. Nothing is written here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from edgedistill.deploy.devices.address import artifact_folder, parse_address
from edgedistill.deploy.onnx_file import BenchOptions
from edgedistill.graphs.random_inputs import Shapes
from edgedistill.graphs.read import fix_shapes, is_quantized, read_sound_onnx
from edgedistill.kits.kits import Kit
from edgedistill.records.base import Record
from edgedistill.runtime.files import sha256_of

SCHEMA: Final = "edgedistill.file_plan/1"


class BenchPlan(Record):
    """What would be measured: a model in its precision on every kit, and the files and folders that would be written.

    `choices` are the decisions about shapes that the user did not make, one line each.
    """

    command: Literal["bench"] = "bench"
    model: Path
    sha256: str
    shapes: Shapes
    choices: tuple[str, ...]
    precision: str
    kits: tuple[str, ...]
    options: BenchOptions
    files: tuple[Path, ...]

    def to_json(self) -> str:
        """Return the plan as JSON of schema edgedistill.file_plan/1."""
        return json.dumps({"schema": SCHEMA, **self.model_dump(mode="json")}, indent=2)

    def lines(self) -> Iterator[str]:
        """Yield the plan for a person."""
        how = self.options
        yield (
            f"would bench {self.model}: {self.precision} on {how.device} with {', '.join(self.kits)}; "
            f"{how.processes} processes of {how.seconds:g} s per kit, threads: {how.threads}"
        )
        if how.soak_minutes:
            yield f"then {how.soak_minutes:g} minutes of continuous inference per kit"
        if how.meter is not None:
            yield f"power readings: {how.meter}"
        yield from (f"input {name}: {'x'.join(map(str, shape))}" for name, shape in self.shapes.items())
        yield from self.choices
        yield from (f"would write {file}" for file in self.files)


def plan_bench(model: Path, kits: list[Kit], options: BenchOptions, folder: Path, shapes: Shapes) -> BenchPlan:
    """Return what `bench_on_kits` would do with a model and a run folder; raises ConfigError as `prepare_onnx` does."""
    graph = read_sound_onnx(model)
    fixed, choices = fix_shapes(graph, shapes)
    precision = "int8" if is_quantized(graph) else "fp32"
    device = parse_address(options.device).label
    files = [folder / "onnx" / f"{model.stem}.onnx", folder / "onnx" / "io.npz"]
    for kit in kits:
        files.append(folder / "artifacts" / artifact_folder(kit.name, options.device) / precision)
        files.append(folder / "measurements" / f"{device}-{kit.name}-{precision}.json")
        files.append(folder / "measurements" / f"{device}-{kit.name}-{precision}.npz")
    return BenchPlan(
        model=model, sha256=sha256_of(model), shapes=fixed, choices=tuple(choices), precision=precision,
        kits=tuple(kit.name for kit in kits), options=options, files=tuple(files),
    )  # fmt: skip
