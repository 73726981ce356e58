"""The process that `tests.support.command` forks: it imports what commands import, then runs a command for each line read."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import runpy
import sys
import traceback
from typing import Any

THIRD_PARTY = (
    "torch", "torch.export", "torch.fx.experimental.proxy_tensor", "torch.onnx", "torch._dynamo", "accelerate", "onnx",
    "onnxruntime", "onnxscript", "onnxslim", "openvino", "sklearn.datasets", "sklearn.model_selection", "scipy.stats",
    "torch_pruning", "matplotlib.figure", "PIL.Image", "jinja2", "rich.progress",
)  # fmt: skip
"""What the functions of the package import late, and takes long."""


def preload() -> None:
    """Import what commands import, also late."""
    package = importlib.import_module("edgedistill")
    for found in pkgutil.walk_packages(package.__path__, "edgedistill."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    for name in THIRD_PARTY:
        importlib.import_module(name)
    torch = importlib.import_module("torch")
    module = torch.nn.Linear(1, 1).eval()  # the first export of a process imports and compiles more than the later ones
    importlib.import_module("edgedistill.export.onnx_export").export_onnx(module, (torch.zeros(1, 1),), 17)
    gc.freeze()


def main() -> None:
    preload()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            obey(order)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def obey(order: dict[str, Any]) -> None:
    """Become the command: its folder, environment, arguments and streams; then run it and end as it ends."""
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    streams = [os.open(os.devnull, os.O_RDONLY), *(os.open(order[name], flags) for name in ("stdout", "stderr"))]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate(("r", "w", "w")))  # noqa: PTH123, SIM115
    faulthandler.enable()  # a command that hangs is ended by SIGABRT
    sys.path[0] = order["cwd"]
    sys.argv = ["edgedistill", *order["arguments"]]
    code = 0
    try:
        runpy.run_module("edgedistill", run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python itself ends a program
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
