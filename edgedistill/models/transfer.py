"""Load the weights that a student starts with, and tell its head from the rest."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from edgedistill.errors import ConfigError, nearest
from edgedistill.models.build import build_model
from edgedistill.models.folder import load_folder
from edgedistill.models.interface import Interface
from edgedistill.models.source import StudentSource
from edgedistill.models.start import KEY, Start
from edgedistill.models.weights import load_weights

SHOWN = 3
"""The most classes that a message names."""


def find_head(source: StudentSource, interface: Interface) -> tuple[str, ...]:
    """Return the names of a student's weights whose shapes depend on the number of classes; empty if none do.

    The student is built for one class more, so that its own code says what belongs to the classes.
    """
    assert source.model is not None
    more = interface.model_copy(update={"values": interface.values + 1})
    try:
        states = [build_model(source.model, one, 0).state_dict() for one in (interface, more)]
    except ConfigError:  # a model that only exists for this number
        return ()
    shapes, others = ({name: value.shape for name, value in state.items()} for state in states)
    return tuple(name for name, shape in shapes.items() if others.get(name) != shape)


def load_start(model: nn.Module, source: StudentSource, interface: Interface) -> list[str]:
    """Load the weights that a student starts with, those of its Hugging Face folder too, and return what was changed or left out.

    The head is left out if it has another size, or if the earlier run had another task or other classes. Raises ConfigError for
    any other mismatch.
    """
    start = source.start
    if start is None or start.weights is None:
        if source.model is None or source.model.encoder is None:
            return []
        return load_folder(model, source.model, interface)
    names, reason = find_head(source, interface), _reason(start, interface)
    try:
        notes = load_weights(model, start.weights.path, head=names, reason=reason)
    except ConfigError as error:
        advice = "" if names else (
            f"; no weight of student.model depends on the number of classes ({interface.values}), so edgedistill cannot find "
            "the head: give the function of the model an argument `classes`"
        )  # fmt: skip
        raise ConfigError(f"{KEY}: {start.weights.name}: {error}{advice}") from None
    left_out = any("head left out" in note for note in notes)
    if names and not left_out and start.purpose is not None:
        notes.append("the head is kept: task and names of classes are those of the earlier run")
    return [f"{start.weights.name}: {note}" for note in notes]


def _reason(start: Start, interface: Interface) -> str:
    """Return why a head of the right size does not fit, empty if it fits or if nothing is known of what it was trained for."""
    purpose = start.purpose
    if purpose is None:
        return ""
    if purpose.task != interface.task:
        return f"for task {purpose.task}"
    if purpose.classes != interface.classes:
        more = ", \u2026" if len(purpose.classes) > SHOWN else ""
        return f"for the classes {', '.join(purpose.classes[:SHOWN])}{more}"
    return ""


def frozen_names(model: nn.Module, source: StudentSource, interface: Interface) -> frozenset[str]:
    """Return the names of the weights that [student] freeze names; raises ConfigError for a name that nothing has."""
    start, names = source.start or Start(), [name for name, _ in model.named_parameters()]
    if start.freeze == "backbone":
        return backbone(model, source, interface)
    for pattern in start.freeze:
        if not any(_covers(pattern, name) for name in names):
            known = [name for name, _ in model.named_modules() if name] + names
            raise ConfigError(
                f"student.freeze: no module or weight of {source.title} is named '{pattern}'{nearest(pattern, known)}"
            )
    frozen = frozenset(name for name in names if any(_covers(pattern, name) for pattern in start.freeze))
    if len(frozen) == len(names):
        raise ConfigError("student.freeze: covers all weights, so nothing would learn; leave the head out")
    return frozen


def backbone(model: nn.Module, source: StudentSource, interface: Interface) -> frozenset[str]:
    """Return the names of all weights but those of the head; raises ConfigError if no weight depends on the number of classes."""
    head = find_head(source, interface)
    names = frozenset(name for name, _ in model.named_parameters())
    if names.isdisjoint(head):
        raise ConfigError(
            f"student: no weight of {source.title} depends on the number of classes, so edgedistill cannot find its head; list the "
            "modules to freeze in student.freeze, and remove lr_scale"
        )
    return names - frozenset(head)


def _covers(pattern: str, name: str) -> bool:
    """Return whether a pattern names a weight, or a module that holds it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:count]), pattern) for count in range(1, len(parts) + 1))
