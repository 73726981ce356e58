"""How a teacher sees a sample and orders its classes, where this differs from the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from edgedistill.config.data import ResizeRule
from edgedistill.data.geometry import Placement, Resizing
from edgedistill.data.settings import Normalization
from edgedistill.errors import ConfigError, nearest
from edgedistill.models.interface import Interface
from edgedistill.records.base import Record

if TYPE_CHECKING:  # a finished run is printed without torch
    from torch import Tensor, nn

    from edgedistill.losses.batch import Tensors


MeanStd = tuple[tuple[float, ...], tuple[float, ...]]
PADDING: Final = 114
"""The grey level of borders where [teacher] does not give it, which is usual for detectors."""
ADDED_KEYS: Final = ("decode", "resize", "padding")


class TeacherView(Record):
    """The keys `mean`, `std`, `size`, `resize`, `padding`, `channels`, `classes` and `decode` of a [teacher] table.

    A teacher gets the student's inputs: of the same view, with the same mixup. They are converted in front of the teacher, so
    `data` is the normalization to undo. None means as the data has it. `size` is the side of a square, or width and height, and
    `resize` the rule of data/geometry.py by which the student's input is put into it, by default stretched. `classes` names the
    teacher's outputs in its own order, and `decode` the form of a detector's outputs.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | tuple[int, int] | None = None
    resize: ResizeRule | None = None
    padding: int | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    classes: tuple[str, ...] | None = None
    decode: str | None = None
    data: Normalization = Normalization()

    @model_serializer(mode="wrap")
    def _without_new_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys without a value that were added later: fingerprints stay as they were."""
        table: dict[str, Any] = dump(self)
        return {key: value for key, value in table.items() if key not in ADDED_KEYS or value is not None}

    @property
    def sides(self) -> tuple[int, int] | None:
        """The height and width of the teacher's input, if it has a size."""
        if self.size is None:
            return None
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[1], self.size[0])

    def placement(self, height: int, width: int) -> Placement:
        """Return where a student's input of this size lies in the teacher's."""
        rows, columns = self.sides or (height, width)
        return Resizing(columns, rows, self.resize or "stretch").place(width, height)

    @property
    def has_border(self) -> bool:
        """Whether the student's input may fill only a part of the teacher's."""
        return (self.resize or "stretch") != "stretch"

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
        (mean, std), (new_mean, new_std) = self._normalizations(channels)
        factor = [old / new for old, new in zip(std, new_std, strict=True)]
        return factor, [(old - new) / by for old, new, by in zip(mean, new_mean, new_std, strict=True)]

    def _normalizations(self, channels: int) -> tuple[MeanStd, MeanStd]:
        """Return the mean and std of the data and those of the teacher, both in the teacher's order of channels."""
        mean, std = self.data.mean or (0.0,) * channels, self.data.std or (1.0,) * channels
        if self.channels == "bgr":
            mean, std = mean[::-1], std[::-1]
        return (mean, std), (self.mean or mean, self.std or std)

    def _border(self, channels: int) -> list[float]:
        """Return the value of each channel, in the teacher's order, of a border with the grey level `padding`."""
        level = (PADDING if self.padding is None else self.padding) / 255
        _, (mean, std) = self._normalizations(channels)
        return [(level - middle) / spread for middle, spread in zip(mean, std, strict=True)]

    def _converted(self, x: Tensor) -> Tensor:
        if self.channels == "bgr":
            x = x.flip(1)
        if self.mean is not None or self.std is not None:
            factor, offset = self.scaling(x.shape[1])
            shape = (1, x.shape[1], *(1,) * (x.ndim - 2))
            x = x * x.new_tensor(factor).reshape(shape) + x.new_tensor(offset).reshape(shape)
        if self.sides is not None and tuple(x.shape[-2:]) != self.sides:
            x = self._resized(x, self.sides)
        return x

    def _resized(self, x: Tensor, sides: tuple[int, int]) -> Tensor:
        """Return inputs (B, channels, H, W), already with the teacher's mean and std, with the teacher's height and width."""
        from torch.nn import functional

        (width, height), (left, top) = self.placement(*x.shape[-2:])[1:]
        shrinks = height < x.shape[-2] or width < x.shape[-1]
        x = functional.interpolate(x, (height, width), mode="bilinear", antialias=shrinks)
        if (height, width) == sides:
            return x
        margins = (left, sides[1] - width - left, top, sides[0] - height - top)
        outside = 1 - functional.pad(x.new_ones(1, 1, height, width), margins)
        return functional.pad(x, margins) + outside * x.new_tensor(self._border(x.shape[1])).reshape(1, -1, 1, 1)

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
    keys = [key for key in ("mean", "std", "size", "resize") if getattr(view, key) is not None]
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
