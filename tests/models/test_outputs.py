"""What a module returns, by name: a tensor, tuples, dictionaries, dataclasses; and what is none of these."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from edgedistill.errors import ConfigError
from edgedistill.models.outputs import as_float, main_name, named_outputs, run

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
        ((A, "b"), "str as 'output_1'"), ((A, None), "NoneType as 'output_1'"), ({"a": A, "b": [B]}, "list as 'b'"),
        (Pair(A, 3), "int as 'box'"), (Detection(A, [A]), "list as 'score'"), (Detection, "type"),
    ],
)  # fmt: skip
def test_what_is_no_output_is_named(value: Any, what: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^Net returns {what}; return a tensor, or a tuple or dictionary of tensors$"
    ):
        named_outputs(value, "Net")


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
