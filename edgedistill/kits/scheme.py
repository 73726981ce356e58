"""Choose the integers of int8 models for kits and processors: the type of activations, and the range of weights."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from edgedistill.config.schema import Config, QuantizeConfig
from edgedistill.kits.kits import ARCHITECTURES, Kit
from edgedistill.records.base import Activations, Encoding, Scheme, Weights
from edgedistill.records.quantize_steps import QuantizeMethod
from edgedistill.records.stages import QuantizedRecord
from edgedistill.runtime.processor import products_overflow

FORMS: Final[dict[QuantizeMethod, Encoding]] = {"dynamic": "dyn-i32", "weights": "w8-f32"}
"""The encodings of the forms of a transformer without static scales of activations."""


class Site(NamedTuple):
    """A kit, and the architecture of the processor that runs it; None if it is not known before the device is asked."""

    kit: Kit
    arch: str | None


class Choice(NamedTuple):
    """A scheme, and the reasons for it in one line."""

    scheme: Scheme
    reason: str


def choose_scheme(
    activations: Activations | Literal["auto"], weights: Weights | Literal["auto"], sites: Sequence[Site]
) -> Choice:
    """Return the scheme for the sites that will run a model; "auto" is the finest that is fast there.

    Unsigned activations have 255 steps behind a ReLU instead of 127. They are chosen if every kit takes them, even where a
    signed encoding takes a few instructions less (ONNX Runtime on ARM64 with dot products, by 10 %). Without a kit,
    activations are signed, which every engine takes. Weights are narrow if this processor runs the model and lacks VNNI.
    """
    refusing = [site.kit.name for site in sites if not site.kit.takes_unsigned]
    if activations != "auto":
        signs, why = activations, "as set"
    elif not sites:
        signs = "signed"
        why = "no kit is given, and every engine supports signed ones; ONNX Runtime may run some layers in float, which --target ort avoids"
    elif refusing:
        signs, why = "signed", f"kit '{refusing[0]}' does not support unsigned ones"
    else:
        signs, why = "unsigned", "255 steps instead of 127 after a ReLU, and every kit supports unsigned ones"
    overflowing = [site.kit.name for site in sites if site.kit.takes_unsigned and overflows_on(site.arch)]
    if weights != "auto":
        width, because = weights, "as set"
    elif overflowing:
        width, because = "narrow", "this processor has no VNNI, so sums of two int8 products can overflow 16 bits"
    else:
        width, because = "full", "no processor that will run the model needs narrow ones"
    scheme = Scheme(activations=signs, weights=width)
    return Choice(scheme, f"{signs} activations ({why}); {width} weights ({because})")


def with_scheme(config: Config, kits: Mapping[str, Kit]) -> tuple[Config, str | None]:
    """Return a configuration in which "auto" of [quantize] is the choice for its targets, and the reasons.

    Without an int8 target there is nothing to choose, and no reason.
    """
    targets = [target for target in config.target if "int8" in target.precisions]
    sites = [Site(kits[one.kit], platform.machine() if one.device == "local" else None) for one in targets]
    quantize: QuantizeConfig = config.quantize
    choice = choose_scheme(quantize.activations, quantize.weights, sites)
    known = quantize.model_copy(update=choice.scheme.model_dump())
    return config.model_copy(update={"quantize": known}), choice.reason if targets else None


def with_form(kit: Kit, quantized: QuantizedRecord) -> Kit:
    """Return a kit limited to the encoding of the form that a transformer has for it; the kit itself for static scales."""
    encoding = FORMS.get(quantized.forms.get(kit.name, "static"))
    return kit if encoding is None else kit.with_encoding(encoding)


def overflows_on(arch: str | None) -> bool:
    """Return whether a processor of this machine's architecture adds two 8-bit products in 16 bits: x86 without VNNI."""
    machine = ARCHITECTURES.get(platform.machine().lower(), platform.machine())
    return arch is not None and ARCHITECTURES.get(arch.lower(), arch) == machine and products_overflow()
