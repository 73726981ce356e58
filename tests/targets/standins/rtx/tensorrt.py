"""NVIDIA's own parser and builder under TensorRT's name: TensorRT-RTX builds on a CPU for a GPU that is not there.

Its networks are strongly typed, as TensorRT's are from 11 on, and its version says so here.
"""

import tensorrt_rtx
from tensorrt_rtx import *  # noqa: F403 - the module under another name

__version__ = "11.0.0"


class Builder(tensorrt_rtx.Builder):
    def create_builder_config(self):
        config = super().create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(tensorrt_rtx.ComputeCapability.SM86, 0)
        return config
