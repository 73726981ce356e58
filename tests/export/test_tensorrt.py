"""What TensorRT's compiler makes of the exported files, where `tensorrt-rtx` is installed; it needs no GPU."""

import re

import pytest
from families import FAMILIES, case, quantized_layers

from edgedistill.export.onnx_export import serialized

trt = pytest.importorskip("tensorrt_rtx", reason="the extra trt-check is not installed")


class Log(trt.ILogger):
    def __init__(self):
        super().__init__()
        self.lines = []

    def log(self, severity, message):
        self.lines.append(message)


def integer_layers(model: bytes) -> set[str]:
    """Build an engine for compute capability 8.6 and return the ONNX nodes in layers that read int8."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model), [parser.get_error(place).desc() for place in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    assert builder.build_serialized_network(network, config) is not None
    found = set()
    for line in "\n".join(log.lines).splitlines():
        layer = re.match(r"Name: .*?LayerType: .*?Inputs: \[(.*?)\](?:, Constants|, Outputs)", line)
        if layer and "Datatype: Int8" in layer[1]:
            found |= set(re.findall(r"\[ONNX Layer: (.*?)\]", line))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_tensorrt_runs_every_int8_layer_in_integers(family):
    model = case(family).int8
    missing = {node.name for node in quantized_layers(model.graph)} - integer_layers(serialized(model))
    assert missing == set()
