"""Build models by name: `zoo:NAME`, `timm:NAME`, `hf:FOLDER`, `package.module:function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from edgedistill.config.model_spec import ModelSpec
from edgedistill.errors import ConfigError, nearest
from edgedistill.models.depthwise import ds_cnn, mobilenetv1
from edgedistill.models.detector import detector
from edgedistill.models.folder import build_folder
from edgedistill.models.interface import Interface
from edgedistill.models.layout import arrange
from edgedistill.models.outputs import fit_outputs
from edgedistill.models.resnet import mlperf_resnet8, resnet20, resnet32, resnet44, resnet56
from edgedistill.models.segmenter import segmenter
from edgedistill.models.sequence import cnn1d, transformer
from edgedistill.models.source import ModelSource
from edgedistill.runtime.user_code import user_code


class Architecture(NamedTuple):
    """An entry of the zoo: its function, the kinds of data that it takes, and the only task that it has outputs for.

    An architecture of no task gives a vector of values, for the tasks that have no architectures of their own.
    """

    build: Callable[..., nn.Module]
    kinds: frozenset[str]
    task: str | None = None


IMAGES: Final = frozenset({"image"})
ZOO: Final[dict[str, Architecture]] = {
    "resnet20": Architecture(resnet20, IMAGES),
    "resnet32": Architecture(resnet32, IMAGES),
    "resnet44": Architecture(resnet44, IMAGES),
    "resnet56": Architecture(resnet56, IMAGES),
    "mlperf-resnet8": Architecture(mlperf_resnet8, IMAGES),
    "ds-cnn": Architecture(ds_cnn, IMAGES),
    "mobilenetv1": Architecture(mobilenetv1, IMAGES),
    "cnn1d": Architecture(cnn1d, frozenset({"signal"})),
    "transformer": Architecture(transformer, frozenset({"image", "signal", "tokens"})),
    "detector": Architecture(detector, IMAGES, "detection"),
    "segmenter": Architecture(segmenter, IMAGES, "segmentation"),
}


def zoo_for(task: str) -> dict[str, Architecture]:
    """Return the architectures with outputs for a task, by name."""
    own = {name: one for name, one in ZOO.items() if one.task == task}
    return own or {name: one for name, one in ZOO.items() if one.task is None}


def build_model(source: ModelSource, interface: Interface, seed: int) -> nn.Module:
    """Build a model with weights initialised from `seed`; channels, size and classes come from the data or the teacher's view.

    A user function gets the arguments that its signature names, out of: classes; channels, shape (spatial) and vocabulary (of
    tokens) of the first input; inputs (the shape of each input, channels first, by name); width; depth. Raises ConfigError.
    """
    own = interface if source.view is None else source.view.interface(interface)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(source, own)
    if any(is_lazy(p) for p in model.parameters()):
        raise ConfigError(f"model '{source.spec}' has lazy layers, which the seed cannot initialise; set their sizes")
    _check_order(source, model, interface)
    if source.spec.source != "zoo":  # the outputs of the zoo need no fitting
        model.register_forward_hook(lambda _, __, returned: _fitted(returned, own, source.spec))
    if source.view is not None:
        source.view.attach(model, interface)
    return arrange(model, interface)


def _fitted(returned: Any, interface: Interface, spec: ModelSpec) -> Any:
    """Return a model's outputs with the labelled output first, or None to keep what it returns."""
    fitted = fit_outputs(returned, interface.values, interface.output, f"model '{spec}'")
    return None if fitted.is_same else fitted.outputs


def _build(source: ModelSource, interface: Interface) -> nn.Module:
    spec, scale = source.spec, {"width": source.width, "depth": source.depth}
    if spec.source == "timm":
        return _timm(spec.name, interface, scale)
    if source.encoder is not None:
        _refuse_scale(str(spec), scale)
        return build_folder(source, source.encoder, interface)
    if spec.source == "zoo":
        return _from_zoo(spec, interface, scale)
    if source.code is None:
        raise ConfigError(f"model '{spec}' is a file of outputs, not a torch module")
    model = _call(spec, source.code.load(), interface, scale)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model '{spec}' returned {type(model).__name__}; expected a torch.nn.Module")
    return model


def _from_zoo(spec: ModelSpec, interface: Interface, scale: dict[str, float]) -> nn.Module:
    if spec.name not in ZOO:
        raise ConfigError(f"model '{spec}': no such model in the zoo{nearest(spec.name, ZOO)}")
    found, fitting = ZOO[spec.name], zoo_for(interface.task)
    _require_one_input(spec, interface)
    if interface.first.kind not in found.kinds:
        raise ConfigError(
            f"model '{spec}' takes {' or '.join(sorted(found.kinds))} data; this is {interface.first.kind} data"
        )
    if spec.name not in fitting:
        named = ", ".join(f"zoo:{name}" for name, one in fitting.items() if interface.first.kind in one.kinds)
        raise ConfigError(f"model '{spec}' has no outputs for task '{interface.task}'; name one of: {named}")
    model: nn.Module = _call(spec, found.build, interface, scale)
    return model


def _require_one_input(spec: ModelSpec, interface: Interface) -> None:
    if len(interface.inputs) > 1:
        names = ", ".join(one.name for one in interface.inputs)
        raise ConfigError(
            f"model '{spec}' takes one input, but the data has {len(interface.inputs)} ({names}); name your own function, "
            "package.module:function"
        )


def _check_order(source: ModelSource, model: nn.Module, interface: Interface) -> None:
    """Raise ConfigError if forward names the inputs in another order than the data, because inputs are passed by position."""
    names = [one.name for one in interface.inputs]
    taken = [name for name in inspect.signature(model.forward).parameters if name in names]
    if len(taken) == len(names) > 1 and taken != names:
        raise ConfigError(
            f"model '{source.spec}' takes ({', '.join(taken)}), but the data's inputs are ({', '.join(names)}); "
            "put the data's arrays in the order of forward's arguments"
        )


def _call(spec: ModelSpec, build: Callable[..., Any], interface: Interface, scale: dict[str, float]) -> Any:
    known = interface.arguments() | scale
    parameters = inspect.signature(build).parameters.values()
    unknown = [
        p.name for p in parameters if p.name not in known and p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    if unknown:
        raise ConfigError(f"model '{spec}' needs argument '{unknown[0]}'; the arguments given are {', '.join(known)}")
    names = {p.name for p in parameters}
    _refuse_scale(str(spec), {key: value for key, value in scale.items() if key not in names})
    given = {name: value for name, value in known.items() if name in names}
    try:
        with user_code(lambda: f"called with {', '.join(f'{name}={value!r}' for name, value in given.items())}, it"):
            return build(**given)
    except ConfigError as error:
        raise ConfigError(f"model '{spec}': {error}") from None


def _refuse_scale(spec: str, scale: dict[str, float]) -> None:
    for key, value in scale.items():
        if value != 1.0:
            raise ConfigError(f"model '{spec}' takes no {key}; remove the key")


def _import_timm(name: str) -> Any:
    """Import timm; raises ConfigError that names what is missing, which can be the torchvision that timm imports."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises RuntimeError
        install = "run: pip install 'edgedistill[timm]'"
        if getattr(error, "name", None) != "timm":
            install = (
                f"timm needs the torchvision that was built for torch {torch.__version__}: install torchvision from the same place as "
                "torch, with the same --index-url"
            )
        raise ConfigError(f"model 'timm:{name}': {str(error).splitlines()[0]}; {install}") from None
    return timm


def _timm(name: str, interface: Interface, scale: dict[str, float]) -> nn.Module:
    timm = _import_timm(name)
    _refuse_scale(f"timm:{name}", scale)
    if len(interface.inputs) > 1:
        raise ConfigError(f"model 'timm:{name}' takes one input, but the data has {len(interface.inputs)}")
    if name not in timm.list_models():
        raise ConfigError(f"model 'timm:{name}': timm has no such model{nearest(name, timm.list_models())}")
    model: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=interface.values, in_chans=interface.channels
    )
    return model


def count_parameters(model: nn.Module) -> int:
    """Count trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
