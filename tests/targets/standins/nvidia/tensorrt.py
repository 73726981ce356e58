"""Stands in for TensorRT's Python module where there is no GPU: a plan is the ONNX file, and ONNX Runtime runs it.

What it has is what the published module of STANDIN_TENSORRT has, by tensorrt-names.json: a name that this version lacks is
not here. It keeps the rules that NVIDIA documents (flags of precision by version, opsets, plans of other versions) and proves
that the kit does its part; what TensorRT makes of a model, it does not show.
"""

import ctypes
import enum
import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

RECORDED = json.loads((Path(__file__).resolve().parents[2] / "recorded" / "tensorrt-names.json").read_text())
__version__ = os.environ.get("STANDIN_TENSORRT", "10.3.0")
PLACE = RECORDED["versions"].index(__version__)
MAJOR = int(__version__.split(".")[0])
PUBLISHED = {name for name, takes in RECORDED["names"].items() if any(row[PLACE] == "x" for row in takes.values())}
CUDA = ctypes.CDLL("libcudart.so")
WEIGHTED = {"Conv": "Convolution", "Gemm": "FullyConnected", "MatMul": "MatrixMultiply"}
SAID = {"Float": "Row major linear FP32", "Half": "Row major linear FP16 format", "Int8": "Row major Int8 format"}


def members(name):
    """Return an enumeration with the members that this version has."""
    found = [each.partition(".")[2] for each in sorted(PUBLISHED) if each.startswith(f"{name}.")]
    return enum.IntEnum(name, [each for each in found if each.isupper() or each[0].isupper()], start=0)


BuilderFlag, DataType, MemoryPoolType = members("BuilderFlag"), members("DataType"), members("MemoryPoolType")
ProfilingVerbosity, TensorIOMode = members("ProfilingVerbosity"), members("TensorIOMode")
NetworkDefinitionCreationFlag = members("NetworkDefinitionCreationFlag")
LayerInformationFormat = members("LayerInformationFormat")


def published(cls):
    """Take from a class what this version does not have; the class itself must be published somewhere."""
    for member in [each for each in vars(cls) if not each.startswith("_")]:
        assert f"{cls.__name__}.{member}" in RECORDED["names"], f"{cls.__name__}.{member} is in no version"
        if f"{cls.__name__}.{member}" not in PUBLISHED:
            delattr(cls, member)
    return cls


@published
class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity, msg):
        raise NotImplementedError


@published
class IProfiler:
    def report_layer_time(self, layer_name, ms):
        raise NotImplementedError


class Network:
    def __init__(self, flags):
        bits = [flag for flag in NetworkDefinitionCreationFlag if flags & 1 << int(flag)]
        assert flags == sum(1 << int(flag) for flag in bits), "a bit that this version has no flag for"
        self.strong = MAJOR >= 11 or "STRONGLY_TYPED" in {flag.name for flag in bits}
        self.batch = MAJOR >= 10 or "EXPLICIT_BATCH" in {flag.name for flag in bits}
        self.model = None


@published
class Builder:
    def __init__(self, logger):
        self._logger = logger

    def create_network(self, flags=0):
        return Network(flags)

    def create_builder_config(self):
        return IBuilderConfig()

    def build_serialized_network(self, network, config):
        refused = self._refused(network, config)
        if refused:
            self._logger.log(ILogger.ERROR, refused)
            return None
        config.timings += b"timed;"
        header = {
            "version": __version__,
            "gpu": os.environ.get("STANDIN_GPU", "Orin"),
            "detailed": config.profiling_verbosity == ProfilingVerbosity.DETAILED,
            "half": network.strong or any(flag.name == "FP16" for flag in config.flags_set),
        }
        return json.dumps(header).encode() + b"\n" + network.model.SerializeToString()

    def _refused(self, network, config):
        named = {flag.name for flag in config.flags_set}
        if not network.batch:
            return "Network has an implicit batch dimension, which ONNX files do not have"
        if network.strong and named & {"FP16", "INT8"}:
            return "strongly typed networks take no builder flags of precision"
        quantized = any(node.op_type == "QuantizeLinear" for node in network.model.graph.node)
        if quantized and not network.strong and "INT8" not in named:
            return "network has Q/DQ layers, and the builder flag INT8 is not set"
        if "TF32" in named:
            return "this stand-in is for exact float32"
        if config.workspace <= 0:
            return "no workspace"
        return None


@published
class IBuilderConfig:
    def __init__(self):
        vars(self).update(flags_set={BuilderFlag.TF32}, profiling_verbosity=None, workspace=-1, timings=b"", cache=None)

    def set_flag(self, flag):
        self.flags_set.add(flag)

    def clear_flag(self, flag):
        self.flags_set.discard(flag)

    def set_memory_pool_limit(self, pool, pool_size):
        assert pool == MemoryPoolType.WORKSPACE
        self.workspace = pool_size

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache.content and not cache.content.startswith(b"timed;"):
            return False
        self.cache, self.timings = cache, cache.content
        return True

    def get_timing_cache(self):
        return ITimingCache(self.timings)


@published
class ITimingCache:
    def __init__(self, content):
        self.content = bytes(content)

    def serialize(self):
        return self.content


@published
class ParserError:
    def __init__(self, text):
        self._text = text

    def desc(self):
        return self._text


@published
class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._errors = network, []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return ParserError(self._errors[index])

    def parse_from_file(self, model):
        try:
            loaded = onnx.load(model)
            onnx.checker.check_model(loaded)
        except Exception as error:  # noqa: BLE001 - protobuf and onnx raise types of their own
            self._errors.append(f"Failed to parse the model: {error}")
            return False
        opset = max(entry.version for entry in loaded.opset_import if entry.domain == "")
        if opset > (17 if MAJOR < 10 else 20):
            self._errors.append(f"opset {opset} is not supported")
            return False
        self._network.model = loaded
        return True


@published
class Runtime:
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        head, _, model = bytes(serialized_engine).partition(b"\n")
        header = json.loads(head)
        here = (__version__, os.environ.get("STANDIN_GPU", "Orin"))
        assert (header["version"], header["gpu"]) == here, "a plan of another place was deserialised, which may crash"
        return ICudaEngine(header, onnx.load_model_from_string(model))


def tensor_type(value):
    """Return the type of an input or output; before 10 int64 is read as int32."""
    kind = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF"}
    found = kind[value.type.tensor_type.elem_type]
    return DataType["INT32" if found == "INT64" and "INT64" not in DataType.__members__ else found]


@published
class ICudaEngine:
    def __init__(self, header, model):
        self._header, self._model = header, model
        self._given = {value.name: value for value in model.graph.input}
        self._values = {value.name: value for value in (*model.graph.input, *model.graph.output)}

    @property
    def num_io_tensors(self):
        return len(self._values)

    @property
    def device_memory_size(self):
        return 4096

    @property
    def device_memory_size_v2(self):
        return 8192

    def get_tensor_name(self, index):
        return list(self._values)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._given else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        sizes = self._values[name].type.tensor_type.shape.dim
        return tuple(size.dim_value if size.HasField("dim_value") else -1 for size in sizes)

    def get_tensor_dtype(self, name):
        return tensor_type(self._values[name])

    def is_shape_inference_io(self, name):
        return False

    def create_execution_context(self):
        return IExecutionContext(self)

    def create_engine_inspector(self):
        return EngineInspector(self)


@published
class IExecutionContext:
    def __init__(self, engine):
        vars(self).update(profiler=None, _engine=engine, _addresses={}, _callback=None)
        serialized = engine._model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        if CUDA.standin_capturing():
            self._callback = ctypes.CFUNCTYPE(None)(self._run)
            CUDA.standin_on_launch(self._callback)
            return True
        self._run()
        return True

    def _run(self):
        feed = {}
        for value in self._session.get_inputs():
            array = self._at(value.name, tuple(value.shape))
            feed[value.name] = array.astype(np.int64) if value.type == "tensor(int64)" else array
        for name, found in zip(
            [value.name for value in self._session.get_outputs()], self._session.run(None, feed), strict=True
        ):
            np.copyto(self._at(name, found.shape), found)
        if self.profiler is not None:
            for layer in layers(self._engine):
                self.profiler.report_layer_time(layer["Name"], 0.25)

    def _at(self, name, shape):
        kind = np.dtype(
            {"FLOAT": np.float32, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}[
                self._engine.get_tensor_dtype(name).name
            ]
        )
        size = int(np.prod(shape)) * kind.itemsize
        raw = (ctypes.c_uint8 * size).from_address(self._addresses[name])
        return np.frombuffer(raw, dtype=np.uint8).view(kind).reshape(shape)


def layers(engine):
    """Return the layers of an engine as an inspector lists them: products, by what reads their data."""
    graph, found = engine._model.graph, []
    rounded = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    plain = "Half" if engine._header["half"] and any(t.data_type == 10 for t in graph.initializer) else "Float"
    for node in graph.node:
        if node.op_type in WEIGHTED:
            kind = "Int8" if node.input[0] in rounded and node.input[1] in rounded else plain
            found.append({"Name": node.name or node.output[0], "LayerType": "CaskConvolution",
                          "ParameterType": WEIGHTED[node.op_type], "Inputs": [typed(kind)], "Outputs": [typed(plain)],
                          "Weights": {"Type": kind, "Count": 1}})  # fmt: skip
    return found


def typed(kind):
    return {"Name": "t", "Datatype": kind} if MAJOR >= 11 else {"Name": "t", "Format/Datatype": SAID[kind]}


@published
class EngineInspector:
    def __init__(self, engine):
        vars(self).update(execution_context=None, _engine=engine)

    def get_engine_information(self, format):  # noqa: A002 - as the published one
        assert format == LayerInformationFormat.JSON
        assert self.execution_context is not None
        found = layers(self._engine)
        detailed = self._engine._header["detailed"]
        return json.dumps({"Layers": found if detailed else [layer["Name"] for layer in found], "Bindings": []})


assert {"Builder.create_network", "IExecutionContext.execute_async_v3"} <= PUBLISHED
