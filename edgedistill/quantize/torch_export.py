"""What torch.export prints, which is hidden, and why it cannot take a model, in one sentence."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Final

LOGGERS: Final = ("torch.fx.experimental.symbolic_shapes", "torch.onnx", "onnxscript", "onnx_ir")
CODE: Final = re.compile(r'File "([^"]+)", line (\d+), in \w+\n\s*(\S.*)')
"""A line of code in the text of an error."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress, the graphs of failed exports, and the deprecations inside torch and onnxscript; errors still raise."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    hidden = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
        # torch copies its own module call graph with a class that it has deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*The axis name: .* will not be used", category=UserWarning)
        # torch's recurrent layers keep a second list of their weights.
        warnings.filterwarnings("ignore", message=".*_flat_weights.*assigned during export", category=UserWarning)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def reason_of(error: BaseException) -> str:
    """Return the first line of an exporter's error, and the line of the model's code that it names, if it names one."""
    texts = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        texts.append(str(error))
    first = texts[-1].strip().partition("\n")[0].partition(".  (")[0].rstrip(".;: ")
    lines = CODE.findall("\n".join(texts))
    if not lines:
        return first
    file, number, code = lines[-1]
    return f"{first}, in {file}, line {number}: {code}"
