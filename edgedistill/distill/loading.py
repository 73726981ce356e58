"""Load teachers and students from their sources and the weights of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from edgedistill.distill.detector_teacher import detector_teacher
from edgedistill.distill.predictors import Answer, Predict, onnx_predictor, split_outputs, torch_predictor
from edgedistill.losses.batch import Tensors
from edgedistill.models.build import build_model
from edgedistill.models.folder import take_weights
from edgedistill.models.interface import Interface
from edgedistill.models.narrow import part_of_transformer
from edgedistill.models.prune import prune_channels, unprunable
from edgedistill.models.source import ModelSource, StudentSource
from edgedistill.models.weights import load_weights
from edgedistill.runtime import processes
from edgedistill.runtime.files import atomic_path
from edgedistill.tasks.table import find_task

Ask = Callable[[Tensors], Answer]


def load_teacher(source: ModelSource, interface: Interface, seed: int, weights: Path) -> nn.Module:
    """Return a torch teacher with its weights, in evaluation mode."""
    model = build_model(source, interface, seed)
    load_weights(model, weights)
    return model.eval()


def build_student(
    source: StudentSource, interface: Interface, seed: int, teacher: nn.Module | None = None
) -> nn.Module:
    """Build the untrained student; the architecture of a pruned teacher does not depend on weights.

    A student that is a part of its teacher inherits the weights of `teacher`; without `teacher`, those are as the teacher is built.
    """
    if source.model is not None:
        return build_model(source.model, interface, seed)
    assert source.teacher is not None
    whole = _whole(source.teacher, interface, seed, teacher)
    if source.layers is not None:
        return part_of_transformer(whole, source.layers, source.width)
    assert source.prune is not None
    return prune_channels(whole, interface, source.prune, _unpruned_layers(_Pruning(source, interface, seed)))


def _whole(source: ModelSource, interface: Interface, seed: int, teacher: nn.Module | None) -> nn.Module:
    """Return the teacher that a student is a part of, which sees the samples as the student does."""
    if source.view is None:
        return build_model(source, interface, seed) if teacher is None else teacher
    model = build_model(source.model_copy(update={"view": None}), interface, seed)
    if teacher is not None:
        take_weights(model, teacher, source.view, interface)
    return model


def load_student(source: StudentSource, interface: Interface, seed: int, weights: Path) -> nn.Module:
    """Return the float student with its trained weights, in evaluation mode."""
    model = build_student(source, interface, seed)
    load_weights(model, weights)
    return model.eval()


class _Pruning:
    """The arguments that determine the layers that are not pruned; compares by content."""

    def __init__(self, source: StudentSource, interface: Interface, seed: int) -> None:
        self.source, self.interface, self.seed = source, interface, seed
        self.text = source.model_dump_json() + interface.model_dump_json() + str(seed)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pruning) and other.text == self.text


@cache
def _unpruned_layers(pruning: _Pruning) -> tuple[str, ...]:
    source = pruning.source
    assert source.teacher is not None
    assert source.prune is not None
    model = build_model(source.teacher, pruning.interface, pruning.seed)
    return unprunable(model, pruning.interface, source.prune)


def teacher_predictor(source: ModelSource, interface: Interface, seed: int, file: Path, precision: str) -> Predict:
    """Return a teacher as a function from model inputs to outputs; `precision` applies to torch models, which run on a GPU if there is one."""
    if source.spec.source == "onnx":
        return onnx_teacher(source, interface, file)
    return torch_predictor(load_teacher(source, interface, seed, file).to(processes.device()), precision)


def onnx_teacher(source: ModelSource, interface: Interface, file: Path) -> Predict:
    """Return a teacher's ONNX file as a function from the student's inputs to outputs in the data's order of classes.

    A detector gives detections.
    """
    view = source.view
    if find_task(interface.task).finds_objects:
        return detector_teacher(file, view, interface)
    if view is None:
        return onnx_predictor(file, interface)
    predict = onnx_predictor(file, view.interface(interface))
    return lambda inputs: view.outputs(predict(view.inputs(inputs)), interface)


def answers_of(predict: Predict, output: str | None) -> Ask:
    """Return a function that splits the outputs of a predictor into the labelled output and the others."""
    return lambda inputs: split_outputs(predict(inputs), output)


def save_model(model: nn.Module, path: Path) -> Path:
    """Write a state dict as safetensors, atomically; only rank 0 writes."""
    from safetensors.torch import save_file

    if processes.is_main_process():
        with atomic_path(path) as scratch:
            save_file(_apart(model.state_dict()), scratch)
    processes.barrier()
    return path


def _apart(state: Mapping[str, Tensor]) -> Tensors:
    """Return contiguous weights that share no memory, which safetensors refuses: tied weights are copied for each further name."""
    apart, memories = Tensors(), set[int]()
    for key, value in state.items():
        whole = value.contiguous()
        memory = whole.untyped_storage().data_ptr()
        apart[key] = whole.clone() if memory in memories else whole
        memories.add(memory)
    return apart
