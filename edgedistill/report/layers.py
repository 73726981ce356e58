"""The time of each layer, without the time of the engine's profiler, under the names of the model's own modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from edgedistill.compare import formatting
from edgedistill.compare.rows import Row
from edgedistill.records.measurement import Layer, LayerProfile
from edgedistill.records.stages import ExportRecord, StudentRecord, TeacherRecord
from edgedistill.runtime.folder import Run, read_record, require_unchanged

if TYPE_CHECKING:
    import onnx

DROWNED: Final = 1.5
"""There is no table where the layers add up to more than this many times the latency without the profiler."""
LEAST_SHARE: Final = 0.01
"""Layers below this share of the sum are counted, not listed."""
WEIGHTED: Final = ("conv", "gemm", "matmul", "fullyconnected")
"""Parts of the names of operators that have weights, in all engines."""


class TimedLayer(NamedTuple):
    """A layer: its module, or the engine's name of it, its operator and precision, nanoseconds, and its share of the sum."""

    name: str
    operator: str
    precision: str
    ns: float
    share: float


@dataclass(frozen=True)
class LayerTable:
    """The layers of a model on a target in execution order; `note` says how they were measured, and is all there is without `rows`."""

    label: str
    engine: str
    rows: tuple[TimedLayer, ...]
    note: str


def layer_tables(rows: Sequence[Row], run: Run | None) -> tuple[LayerTable, ...]:
    """Return a table for each model of a target that was profiled; `run` has the files with the names of the modules."""
    return tuple(_table(row, row.measurement.layers, run) for row in rows if row.measurement.layers is not None)


def _table(row: Row, profile: LayerProfile, run: Run | None) -> LayerTable:
    m = row.measurement
    engine, count = m.device.engine.name, len(profile.layers)
    whole, plain = sum(layer.ns for layer in profile.layers), min(profile.plain_ns, m.latency_ns.p50)
    if whole > DROWNED * plain:
        added, times = formatting.duration(whole), formatting.times(whole / plain)
        return LayerTable(
            row.label, engine, (), f"{row.label} {added}, {times} the {formatting.duration(plain)} without the profiler"
        )
    sums = f"The layers add up to {formatting.duration(whole)}; an inference without the profiler takes {formatting.duration(plain)}."
    own = profiler_ns([layer.ns for layer in profile.layers], plain)
    left = whole - own * count
    names = {} if run is None else module_names(run, m.model.sha256, profile.layers)
    timed = (
        TimedLayer(
            names.get(layer.name, layer.name), layer.type, layer.precision, layer.ns - own, (layer.ns - own) / left
        )
        for layer in profile.layers
    )
    listed = tuple(layer for layer in timed if layer.share >= LEAST_SHARE)
    removed = (
        f" {formatting.duration(own)} are removed from each layer, because the profiler itself takes them."
        if own
        else ""
    )
    rest = f" {count - len(listed)} layers below 1 % are not listed." if len(listed) < count else ""
    return LayerTable(
        row.label, engine, listed, f"Measured by the profiler of {engine}, in execution order. {sums}{removed}{rest}"
    )


def profiler_ns(layers: Sequence[float], plain: float) -> float:
    """Return the time that a profiler adds to each layer, in nanoseconds.

    It is the same for each layer, so at most the time of the shortest one; what the layers take longer than an inference without the
    profiler is at most all of it.
    """
    return max(0.0, min((sum(layers) - plain) / len(layers), *layers)) if layers else 0.0


def module_names(run: Run, sha256: str, layers: Sequence[Layer]) -> dict[str, str]:
    """Return the module of each layer with weights, by the engine's name of the layer; empty where the model's file is missing."""
    export = read_record(run, ExportRecord)
    model = next((one for one in export.models if one.file.sha256 == sha256), None) if export is not None else None
    if model is None or not run.path(model.file).is_file():
        return {}
    import onnx

    graph = onnx.load(str(require_unchanged(run, model.file)), load_external_data=False).graph
    return _matched(layers, _Graph(graph, _modules_of(run, model.name)))


def _modules_of(run: Run, name: str) -> frozenset[str]:
    """Return the names of the modules with weights in the file of the teacher or the student; empty for other files."""
    teacher, student = read_record(run, TeacherRecord), read_record(run, StudentRecord)
    trained = teacher if name == "teacher" else None if student is None else student.student
    file = None if trained is None else run.path(trained.file)
    if trained is None or file is None or file.suffix != ".safetensors" or not file.is_file():
        return frozenset()
    require_unchanged(run, trained.file, TeacherRecord.stage if trained is teacher else StudentRecord.stage)
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        return frozenset(key.rpartition(".")[0] for key in tensors.keys())  # noqa: SIM118 - not a dictionary


class _Graph:
    """The weighted nodes of an ONNX graph by the names that engines derive the names of their layers from."""

    def __init__(self, graph: onnx.GraphProto, modules: frozenset[str]) -> None:
        self._modules = modules
        self._constants = {one.name for one in graph.initializer}
        self._makers = {output: node for node in graph.node for output in node.output}
        self.nodes = {node.name: node for node in graph.node} | self._makers

    def module(self, node: onnx.NodeProto) -> str | None:
        """Return the module whose weight a node multiplies by, or None."""
        if not any(part in node.op_type.lower() for part in WEIGHTED):
            return None
        for value in node.input[1:2]:
            maker = self._makers.get(value)
            source = maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else value
            if source in self._constants and ".weight" in source:
                return self._known(source.rpartition(".weight")[0])
        return None

    def upstream(self, node: onnx.NodeProto) -> Iterator[str]:
        """Yield the modules of the nearest weighted nodes before a node, or of the node itself, the nearest first."""
        level, seen = [node], set()
        while level:
            found = [module for one in level if (module := self.module(one)) is not None]
            yield from found
            seen |= {id(one) for one in level}
            before = [self._makers.get(value) for one in level if self.module(one) is None for value in one.input]
            level = [one for one in before if one is not None and id(one) not in seen]

    def _known(self, name: str) -> str:
        """Return the longest end of a name that is a module of the file: exporters put the names of wrappers in front."""
        parts = name.split(".")
        ends = (".".join(parts[place:]) for place in range(len(parts)))
        return next((end for end in ends if end in self._modules), name)


def _matched(layers: Sequence[Layer], graph: _Graph) -> dict[str, str]:
    """Match layers to modules: first those that are named after a weighted node, then those named after what follows one."""
    found: dict[str, str] = {}
    waiting: dict[str, onnx.NodeProto] = {}
    for layer in layers:
        node = _named_after(layer.name, graph.nodes)
        if node is None or not any(part in layer.type.lower() for part in WEIGHTED):
            continue
        module = graph.module(node)
        if module is not None:
            found[layer.name] = module
        else:
            waiting[layer.name] = node
    for name, node in waiting.items():
        taken = set(found.values())
        module = next((one for one in graph.upstream(node) if one not in taken), None)
        if module is not None:
            found[name] = module
    return found


def _named_after(name: str, nodes: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the node or value that a layer's name begins with: engines append "_nchwc", "/WithoutBiases" and the like."""
    if name in nodes:
        return nodes[name]
    ends = [place for place in range(len(name) - 1, 0, -1) if name[place] in "_/:."]
    return next((nodes[name[:place]] for place in ends if name[:place] in nodes), None)
