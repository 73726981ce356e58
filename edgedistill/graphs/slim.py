"""A graph with constants, identities and batch norms folded, by onnxslim."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import onnx
import onnxslim

FRAMES, BYTES = 4, 1024
"""The maximum number of recursive frames of onnxslim per graph node, and of C stack bytes per frame."""
SMALLEST_STACK = 64 << 20


def slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model simplified by onnxslim, which sorts nodes by recursion: a deep graph needs a deep stack."""
    limit, stack = sys.getrecursionlimit(), threading.stack_size()
    deepest = limit + FRAMES * len(model.graph.node)
    sys.setrecursionlimit(deepest)
    threading.stack_size(max(SMALLEST_STACK, BYTES * deepest))
    try:
        with ThreadPoolExecutor(1) as thread:
            simplified: onnx.ModelProto = thread.submit(onnxslim.slim, model).result()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(stack)
    return simplified
