"""What a module returns, by name: a tensor, tuples, dictionaries, dataclasses; and what is none of these."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from edgedistill.errors import ConfigError
from edgedistill.models.outputs import as_float, fit_outputs, main_name, named_outputs, run

A, B = torch.zeros(2, 3), torch.ones(2, 5, dtype=torch.bfloat16)


class Pair(NamedTuple):
    score: Tensor
    box: Tensor | None


@dataclass
class Detection:
    box: Tensor
    score: Tensor
    mask: Tensor | None = None


RETURNED = {
    "a tensor": (A, ["logits"]),
    "a tuple": ((A, B), ["output_0", "output_1"]),
    "a list": ([A, B], ["output_0", "output_1"]),
    "a tuple of one": ((A,), ["output_0"]),
    "a dictionary": ({"score": A, "box": B}, ["score", "box"]),
    "an ordered dictionary": (OrderedDict(box=B, score=A), ["box", "score"]),
    "a dictionary with an output that is off": ({"score": A, "aux": None}, ["score"]),
    "a named tuple": (Pair(A, B), ["score", "box"]),
    "a named tuple with an output that is off": (Pair(A, None), ["score"]),
    "a dataclass": (Detection(B, A), ["box", "score"]),
    "a whole dataclass": (Detection(B, A, A), ["box", "score", "mask"]),
}


@pytest.mark.parametrize("case", RETURNED)
def test_outputs_have_names_in_their_order(case: str) -> None:
    value, names = RETURNED[case]
    outputs = named_outputs(value)
    assert list(outputs) == names
    assert all(output is A or output is B for output in outputs.values())


@pytest.mark.parametrize("case", RETURNED)
def test_float32_has_the_same_names_and_values(case: str) -> None:
    value, names = RETURNED[case]
    outputs = named_outputs(as_float(value))
    assert list(outputs) == names
    for name, output in outputs.items():
        assert output.dtype == torch.float32
        assert torch.equal(output, named_outputs(value)[name].float())


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "NoneType"), ("logits", "str"), (3.0, "float"), ((), "tuple"), ({}, "dict"),
        ((A, "b"), "tuple (output_0: float32(2, 3), output_1: str)"),
        ((A, None), "tuple (output_0: float32(2, 3), output_1: NoneType)"),
        ({"a": A, "b": [B]}, "dict (a: float32(2, 3), b: list)"), (Pair(A, 3), "Pair (score: float32(2, 3), box: int)"),
        (Detection(A, [A]), "Detection (box: float32(2, 3), score: list)"), (Detection, "type"),
    ],
)  # fmt: skip
def test_what_is_no_output_is_named(value: Any, what: str) -> None:
    words = re.escape(f"Net returns {what}; return a tensor, or a tuple or dictionary of tensors")
    with pytest.raises(ConfigError, match=f"^{words}$"):
        named_outputs(value, "Net")


class Answer:
    """An object with attributes only, as libraries return."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.hidden = logits, [logits]


FITTED = {
    "a tensor": (A, None, ["logits"], None),
    "a dictionary": ({"aux": A, "logits": A}, None, ["logits", "aux"], "'logits' is taken as its output"),
    "other entries": (
        {"loss": A.sum(), "features": B, "scores": A, "hidden": (A, A)}, None, ["scores", "features"],
        "features: bfloat16(2, 5), scores: float32(2, 3), hidden: tuple); 'scores' is taken as its output; loss, hidden left out",
    ),
    "a tuple": ((None, B, A), None, ["output_2", "output_1"], "'output_2' is taken as its output; output_0 left out"),
    "an object": (Answer(A), None, ["logits"], "returns Answer (logits: float32(2, 3)); 'logits' is taken"),
    "the key data.output": ({"a": A, "b": A}, "b", ["a", "b"], None),
    "no output of the right shape": ((B, B), None, ["output_0", "output_1"], "'output_0' is taken"),
}  # fmt: skip


@pytest.mark.parametrize("case", FITTED)
def test_the_labelled_output_comes_first_and_it_is_said_which_it_is(case: str) -> None:
    value, wanted, names, note = FITTED[case]
    fitted = fit_outputs(value, 3, wanted, "Net")
    assert list(fitted.outputs) == names
    assert fitted.is_same == (
        isinstance(value, Tensor) or case in ("no output of the right shape", "the key data.output")
    )
    assert (note is None) == (fitted.note is None)
    assert note is None or note in str(fitted.note)


@pytest.mark.parametrize("value", [("cat", [1]), {"loss": A.sum()}, Detection, None])
def test_what_holds_no_output_is_refused(value: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^Net returns .*; return a tensor \(N, 3\), or a tuple or dictionary of tensors$"
    ):
        fit_outputs(value, 3, None, "Net")


class Sum(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"sum": left + right, "left": left}


def test_a_module_is_run_on_its_inputs_in_their_order() -> None:
    outputs = run(Sum(), {"x": A, "y": A + 2})
    assert list(outputs) == ["sum", "left"]
    assert torch.equal(outputs["left"], A)
    assert torch.equal(outputs["sum"], A + 2)


def test_the_output_that_labels_are_for_is_the_first_or_the_one_that_is_named() -> None:
    assert main_name(("score", "box"), None) == "score"
    assert main_name(("score", "box"), "box") == "box"
    assert main_name(("logits",), "box") == "logits"  # a model of one output has no other
    with pytest.raises(ConfigError, match=r"^data\.output: Net has no output 'bax'; it has: score, box$"):
        main_name(("score", "box"), "bax", "Net")
