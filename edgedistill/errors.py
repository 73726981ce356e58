"""The errors that are shown to users, each with its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgedistillError(Exception):
    """An error that says what is wrong, where, and the next step; the process ends with `exit_code`."""

    exit_code = 1


class ConfigError(EdgedistillError):
    """The command line, the configuration or the data cannot be used as given."""

    exit_code = 2


class IncomparableError(EdgedistillError):
    """Two results were measured under different conditions."""

    exit_code = 2


class ParityError(EdgedistillError):
    """An exported or compiled model disagrees with the model it was made from."""

    exit_code = 4


class AccuracyError(EdgedistillError):
    """A model says nothing about its inputs: its outputs are constant or not finite, or int8 made them no better than chance."""

    exit_code = 4


class LintError(EdgedistillError):
    """An ONNX model breaks a rule of one of its target engines."""

    exit_code = 4


class DeviceError(EdgedistillError):
    """A device or an engine failed or refused a model."""

    exit_code = 5


class GateError(EdgedistillError):
    """A gate failed."""

    exit_code = 3


class UndecidedError(EdgedistillError):
    """No gate failed, but at least one gate could not be decided."""

    exit_code = 6


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; perhaps 'x'?" for the known word closest to a misspelt one, or the whole list when none is close.

    A tuple or list keeps its order, as that of stages.
    """
    words = list(known) if isinstance(known, (tuple, list)) else sorted(known)
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    close.sort(key=lambda one: (-difflib.SequenceMatcher(None, one, word).ratio(), sorted(one) != sorted(word)))
    return f"; perhaps '{close[0]}'?" if close else f"; choose one of: {', '.join(words)}"
