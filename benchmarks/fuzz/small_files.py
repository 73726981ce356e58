"""What the files of inputs share: their type, random numbers, and small files of usual formats."""

import io
import wave
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgedistill.runtime.arrays import write_arrays

REPOSITORY = Path(__file__).resolve().parents[2]
Files = dict[str, bytes]
"""The files of one input by relative path; those whose names begin with an underscore stay as they are."""

RNG = np.random.default_rng(0)


def arrays(**values: np.ndarray) -> bytes:
    file = io.BytesIO()
    write_arrays(file, values, compressed=True)
    return file.getvalue()


def picture(form: str = "png", mode: str = "RGB", size: tuple[int, int] = (12, 9)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(file, form)
    return file.getvalue()


def clip(width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(width)
        sound.setframerate(8000)
        sound.writeframes(RNG.integers(0, 255, 400 * width, dtype=np.uint8).tobytes())
    return file.getvalue()


def small_onnx(opset: int = 18) -> onnx.ModelProto:
    weight = numpy_helper.from_array(RNG.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"), helper.make_node("Flatten", ["p"], ["y"], name="flat"),
    ]  # fmt: skip
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, 4]))
    ]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
