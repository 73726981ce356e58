"""ONNX Runtime on the CPU: an optimised graph in ORT format for this device, and a portable one for phones."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

# From 1.32 on, importing ONNX Runtime starts a thread that reports usage, and writes into the home folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

PRECISIONS = ("fp32", "int8")
PROVIDERS = ["CPUExecutionProvider"]
EXACT_PRODUCTS = "session.x64quantprecision"
NARROW = ("edgedistill.weights", "narrow")
"""The entry of a model's metadata that says that its sums of products do not overflow 16 bits."""
SHARED_ZERO_POINT = "Attempt to replace the existing tensor"
VNNI = {"avx512_vnni", "avx_vnni"}
QUIET = 3  # errors only: warnings about unused initializers do not help a user


def describe() -> Dict[str, str]:
    """Return the engine's name and version."""
    import onnxruntime

    return {"name": "onnxruntime", "version": onnxruntime.__version__}


def compile(model: Path, out: Path, precision: str, threads: int) -> Dict[str, Any]:  # noqa: A001 - the kit's contract
    """Write the graph for this device, optimised for its instruction set, and a portable graph for phones beside it."""
    _known(precision)
    (out / "mobile").mkdir(exist_ok=True)
    _save(model, out / "model.ort", _options(threads, exact_products=_overflows() and not _is_narrow(model)), ())
    # What `onnxruntime.tools.convert_onnx_models_to_ort --optimization_style Fixed --target_platform arm` does: no
    # blocked layout, which only x86 has kernels for, and signed activations in integer kernels.
    phone = _options(1)
    phone.add_session_config_entry("session.qdqisint8allowed", "1")
    _save(model, out / "mobile" / "model.ort", phone, ("NchwcTransformer",))
    return {"entry": "model.ort", "files": ["model.ort"], "extras": ["mobile/model.ort"]}


def _is_narrow(model: Path) -> bool:
    import onnxruntime

    options = _options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options, providers=PROVIDERS)
    return session.get_modelmeta().custom_metadata_map.get(NARROW[0]) == NARROW[1]


def _save(model: Path, path: Path, options: Any, disabled: Tuple[str, ...]) -> None:
    import onnxruntime

    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        onnxruntime.InferenceSession(str(model), options, providers=PROVIDERS, disabled_optimizers=list(disabled))
    except Exception as error:
        if SHARED_ZERO_POINT not in str(error):
            raise
        # ONNX Runtime cannot make weights unsigned that share a zero point. The check then shows overflows.
        options.add_session_config_entry(EXACT_PRODUCTS, "0")
        onnxruntime.InferenceSession(str(model), options, providers=PROVIDERS, disabled_optimizers=list(disabled))


def load(entry: Path, precision: str, threads: int) -> "Session":
    """Load a graph in ORT format without optimising it again."""
    _known(precision)
    return Session(_open(entry, _options(threads)), entry)


def profile(entry: Path, precision: str, threads: int) -> "ProfiledSession":
    """Load a graph as `load` does, with each kernel timed and logged into a separate folder."""
    _known(precision)
    options, folder = _options(threads), tempfile.mkdtemp(prefix="edgedistill-profile-")
    options.enable_profiling = True
    options.profile_file_prefix = os.path.join(folder, "ort")
    return ProfiledSession(_open(entry, options), entry)


def _open(entry: Path, options: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(entry), options, providers=PROVIDERS)
    if session.get_providers() != PROVIDERS:
        raise RuntimeError(f"{PROVIDERS[0]} was requested, but the session has {session.get_providers()}")
    return session


def _known(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision '{precision}' is not one of: {', '.join(PRECISIONS)}")


def _overflows() -> bool:
    """Return whether this processor's 8-bit products overflow: x86 without VNNI. False if that is unknown."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = re.search(r"^flags\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and not VNNI & set(flags.group(1).split())


def _options(threads: int, *, exact_products: bool = False) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    # The default for applications, for a reason: with 2 threads ResNet-8 takes 145 us with spinning, 300 us without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    # x86 without VNNI adds two products of unsigned activations and signed weights in 16 bits, which overflows: ResNet-8
    # on digits gave other answers for 31 % of the images. With this option, such processors get unsigned weights, and take 1.4 times
    # as long. With VNNI or AMX, the answers are the same without it, and ResNet-20 takes 2.2 times as long with it.
    options.add_session_config_entry(EXACT_PRODUCTS, "1" if exact_products else "0")
    return options


class Session:
    """A loaded model with its inputs bound, so that the timed call contains only the inference."""

    def __init__(self, session: Any, entry: Path) -> None:
        self._session = session
        self._entry = entry
        self._binding = session.io_binding()
        self.inputs = [node.name for node in session.get_inputs()]
        self._outputs = [node.name for node in session.get_outputs()]
        for name in self._outputs:
            self._binding.bind_output(name)

    def set(self, feed: Dict[str, np.ndarray]) -> None:
        """Bind one request's arrays as inputs; the harness keeps them alive until the next request is set."""
        for name, array in feed.items():
            self._binding.bind_cpu_input(name, array)

    def infer(self) -> None:
        """Run one inference."""
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> Dict[str, np.ndarray]:
        """Return the outputs of the last inference."""
        arrays = self._binding.copy_outputs_to_cpu()
        return {name: arrays[i] for i, name in enumerate(self._outputs)}

    def threads(self) -> Optional[int]:
        """Return the number of threads of the session's pool, including the calling thread."""
        return int(self._session.get_session_options().intra_op_num_threads)

    def executed(self) -> Tuple[Optional[Dict[str, int]], Optional[str]]:
        """Count weighted layers by the precision that they run in, read from the graph in ORT format."""
        try:
            return count_layers(self._entry.read_bytes()), None
        except ImportError as error:
            return None, f"the graph cannot be read: {error}; install the package flatbuffers"


class ProfiledSession(Session):
    """A loaded model that logs each kernel's time, in whole microseconds."""

    def layers(self) -> List[Dict[str, Any]]:
        """End the profile and return the kernels in execution order, each with its time; call this only once."""
        log = Path(self._session.end_profiling())
        try:
            return kernel_times(json.loads(log.read_text(encoding="utf-8")))
        finally:
            shutil.rmtree(str(log.parent))


KERNEL = "_kernel_time"
ELEMENTS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8"}


def kernel_times(events: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Return each kernel of a profile in the order of its first run, with its mean time without preempted runs and the first."""
    times: Dict[str, List[int]] = {}
    kernels: Dict[str, Dict[str, Any]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(KERNEL):
            name = event["name"][: -len(KERNEL)]
            times.setdefault(name, []).append(event["dur"])
            kernels.setdefault(name, event["args"])
    return [
        {
            "name": name,
            "type": kernels[name]["op_name"],
            "precision": _element(kernels[name]),
            "ns": 1000.0 * _middle_mean(each[1:] or each),
        }
        for name, each in times.items()
    ]


def _middle_mean(values: List[int]) -> float:
    """Return the mean of the middle eight tenths."""
    cut = len(values) // 10
    middle = sorted(values)[cut : len(values) - cut]
    return sum(middle) / len(middle)


def _element(kernel: Dict[str, Any]) -> str:
    """Return the precision of a kernel, from its operator type or from its first output."""
    if kernel["op_name"] in INT8_KERNELS:
        return "int8"
    written = kernel.get("output_type_shape") or [{}]
    return ELEMENTS.get(next(iter(written[0]), ""), "other")


# Kernels that multiply by weights, by origin; a float kernel runs in the type of its first input.
FLOAT_KERNELS = {
    "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention",
}  # fmt: skip
INT8_KERNELS = {
    "QLinearConv", "NhwcQLinearConv", "ConvInteger", "QLinearMatMul", "QGemm", "MatMulInteger",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearConvTranspose", "QAttention",
}  # fmt: skip
TYPES = {1: "fp32", 10: "fp16", 11: "fp64", 16: "bf16"}  # ONNX's numbers for element types


def count_layers(graph_in_ort_format: bytes) -> Dict[str, int]:
    """Count weighted layers by precision in a graph in ORT format, with the reader that onnxruntime ships.

    Both branches of a condition count, though one request runs only one of them.
    """
    import onnxruntime

    # Not `import onnxruntime.tools.ort_format_model`: that imports torch where it is installed.
    reader = os.path.join(os.path.dirname(onnxruntime.__file__), "tools", "ort_format_model")
    if reader not in sys.path:
        sys.path.append(reader)
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    counts: Dict[str, int] = {}
    _count_graph(InferenceSession.GetRootAsInferenceSession(graph_in_ort_format, 0).Model().Graph(), {}, counts)
    return counts


def _count_graph(graph: Any, outer_types: Dict[str, int], counts: Dict[str, int]) -> None:
    types = dict(outer_types)
    types.update(_types(graph))
    for i in range(graph.NodesLength()):
        node = graph.Nodes(i)
        precision = _precision(node, types)
        if precision:
            counts[precision] = counts.get(precision, 0) + 1
        for j in range(node.AttributesLength()):
            if node.Attributes(j).G() is not None:
                _count_graph(node.Attributes(j).G(), types, counts)


def _precision(node: Any, types: Dict[str, int]) -> Optional[str]:
    operator = node.OpType().decode()
    if operator in INT8_KERNELS:
        return "int8"
    if operator in FLOAT_KERNELS:
        kind = types.get(node.Inputs(0).decode(), 0)
        return TYPES.get(kind, f"type {kind}")
    return None


def _types(graph: Any) -> Dict[str, int]:
    """Return the element type of each value of a graph, by name."""
    from ort_flatbuffers_py.fbs.TensorTypeAndShape import TensorTypeAndShape

    types: Dict[str, int] = {}
    for i in range(graph.NodeArgsLength()):
        argument = graph.NodeArgs(i)
        if argument.Type() is None or argument.Type().Value() is None:
            continue
        tensor = TensorTypeAndShape()
        tensor.Init(argument.Type().Value().Bytes, argument.Type().Value().Pos)
        types[argument.Name().decode()] = tensor.ElemType()
    return types
