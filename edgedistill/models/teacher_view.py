"""How a teacher sees a sample and orders its classes, where this differs from the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from edgedistill.data.settings import Normalization
from edgedistill.errors import ConfigError, nearest
from edgedistill.models.interface import Interface
from edgedistill.records.base import Record

if TYPE_CHECKING:  # a finished run is printed without torch
    from torch import Tensor, nn

    from edgedistill.losses.batch import Tensors


class TeacherView(Record):
    """The keys `mean`, `std`, `size`, `channels`, `classes` and `decode` of a [teacher] table; None means as the data has it.

    A teacher gets the student's inputs: of the same view, with the same mixup. They are converted in front of the teacher, so
    `data` is the normalization to undo. `size` is the side of a square, or width and height. `classes` names the teacher's outputs
    in its own order, and `decode` the form of a detector's outputs.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | tuple[int, int] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    classes: tuple[str, ...] | None = None
    decode: str | None = None
    data: Normalization = Normalization()

    @model_serializer(mode="wrap")
    def _without_decode(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `decode` without a value: the key was added later, and the fingerprint stays as it was."""
        table: dict[str, Any] = dump(self)
        return {key: value for key, value in table.items() if key != "decode" or value is not None}

    @property
    def sides(self) -> tuple[int, int] | None:
        """The height and width of the teacher's input, if it has a size."""
        if self.size is None:
            return None
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[1], self.size[0])

    @property
    def converts_inputs(self) -> bool:
        """Whether the teacher's inputs differ from the student's."""
        return (self.mean, self.std, self.size, self.channels) != (None, None, None, "rgb")

    def interface(self, interface: Interface) -> Interface:
        """Return the interface of the teacher itself, for the interface of the data."""
        inputs = interface.inputs
        if self.sides is not None:
            first = inputs[0]
            inputs = (first.model_copy(update={"shape": (*self.sides, *first.shape[2:])}), *inputs[1:])
        names = self.classes or interface.classes
        values = len(self.classes) if self.classes else interface.values
        return interface.model_copy(update={"inputs": inputs, "values": values, "classes": names})

    def inputs(self, inputs: Tensors) -> Tensors:
        """Return the teacher's inputs for the student's inputs (B, channels, ...)."""
        if not self.converts_inputs:
            return inputs
        ((name, x),) = inputs.items()
        return {name: self._converted(x)}

    def scaling(self, channels: int) -> tuple[list[float], list[float]]:
        """Return the factor and the offset of each channel, in the teacher's order, that convert to its mean and std."""
        mean, std = self.data.mean or (0.0,) * channels, self.data.std or (1.0,) * channels
        if self.channels == "bgr":
            mean, std = mean[::-1], std[::-1]
        new_mean, new_std = self.mean or mean, self.std or std
        factor = [old / new for old, new in zip(std, new_std, strict=True)]
        return factor, [(old - new) / by for old, new, by in zip(mean, new_mean, new_std, strict=True)]

    def _converted(self, x: Tensor) -> Tensor:
        if self.channels == "bgr":
            x = x.flip(1)
        if self.mean is not None or self.std is not None:
            factor, offset = self.scaling(x.shape[1])
            shape = (1, x.shape[1], *(1,) * (x.ndim - 2))
            x = x * x.new_tensor(factor).reshape(shape) + x.new_tensor(offset).reshape(shape)
        if self.sides is not None and tuple(x.shape[-2:]) != self.sides:
            from torch.nn import functional

            shrinks = any(new < old for new, old in zip(self.sides, x.shape[-2:], strict=True))
            x = functional.interpolate(x, self.sides, mode="bilinear", antialias=shrinks)
        return x

    def columns(self, interface: Interface) -> list[int] | None:
        """Return the teacher's output of each class of the data, or None if the order is the same."""
        if self.classes is None or self.classes == interface.classes:
            return None
        return [self.classes.index(name) for name in interface.classes]

    def outputs(self, outputs: Tensors, interface: Interface) -> Tensors:
        """Return the teacher's outputs with the labelled output in the data's order of classes."""
        from edgedistill.models.outputs import main_name

        columns = self.columns(interface)
        if columns is None:
            return outputs
        name = main_name(tuple(outputs), interface.output)
        return outputs | {name: outputs[name][:, columns]}

    def attach(self, model: nn.Module, interface: Interface) -> None:
        """Convert what a module takes and returns, with hooks, so that its weights and layers keep their names."""
        names = [one.name for one in interface.inputs]
        if self.converts_inputs:
            model.register_forward_pre_hook(
                lambda _, inputs: tuple(self.inputs(dict(zip(names, inputs, strict=True))).values())
            )
        if self.columns(interface) is not None:
            model.register_forward_hook(lambda _, __, returned: self._returned(returned, interface))

    def _returned(self, returned: object, interface: Interface) -> Tensor | Tensors:
        from torch import Tensor

        from edgedistill.models.outputs import named_outputs

        outputs = self.outputs(named_outputs(returned, "the teacher"), interface)
        return next(iter(outputs.values())) if isinstance(returned, Tensor) else outputs


def check_view(view: TeacherView, interface: Interface, *, has_inputs: bool) -> None:
    """Raise ConfigError for keys that do not fit the data or the form of the teacher."""
    keys = [key for key in ("mean", "std", "size") if getattr(view, key) is not None]
    for key in [*keys, *(["channels"] if view.channels != "rgb" else [])]:
        if not has_inputs:
            raise ConfigError(f"teacher.{key}: saved outputs take no inputs; remove the key")
        if len(interface.inputs) > 1:
            raise ConfigError(f"teacher.{key}: only applies to data with one input; convert the inputs in your module")
        if key in ("size", "channels") and not interface.kind.is_picture:
            raise ConfigError(
                f"teacher.{key}: only applies to images, but the data is {interface.kind.name}; remove the key"
            )
    if view.decode is not None and interface.task != "detection":
        raise ConfigError(
            f"teacher.decode: only applies to detectors, but the task is {interface.task}; remove the key"
        )
    _check_channels(view, interface)
    _check_classes(view.classes, interface)


def _check_channels(view: TeacherView, interface: Interface) -> None:
    given = {
        f"{table}.{key}": getattr(one, key)
        for table, one in (("teacher", view), ("data", view.data))
        for key in ("mean", "std")
    }
    for key, values in given.items():
        if values is not None and not interface.kind.normalised:
            raise ConfigError(f"{key}: {interface.kind.name} are not normalised; remove the key")
        if values is not None and len(values) != interface.channels:
            raise ConfigError(f"{key}: {len(values)} values, but samples have {interface.channels} channel(s)")
    if view.channels == "bgr" and interface.channels != 3:
        raise ConfigError(
            f"teacher.channels: only applies to colour images, but the data has {interface.channels} channel(s)"
        )


def _check_classes(classes: tuple[str, ...] | None, interface: Interface) -> None:
    if classes is None:
        return
    for name in interface.classes:
        if name not in classes:
            raise ConfigError(f"teacher.classes: has no class '{name}', which the data has{nearest(name, classes)}")
    if twice := [name for name in classes if classes.count(name) > 1]:
        raise ConfigError(f"teacher.classes: names '{twice[0]}' twice; name each output of the teacher once")
