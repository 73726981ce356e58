"""Stands in for trtexec where there is no GPU: takes the flags of the version in STANDIN_TENSORRT and replays a recorded session.

Flags by version are those of NVIDIA/TensorRT's samples/common/sampleOptions.cpp at the tags 8.5.2, 8.6.1, 10.3, 10.13 and 11.0;
one that a version does not know ends it, as there. Its log has the lines of tensorrt-trtexec-8.5.log and -10.9.log with the
conditions that the flags set, times and layers are those recorded; a plan is the ONNX file, and outputs are ONNX Runtime's.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

RECORDED = Path(__file__).resolve().parents[1] / "recorded"
VERSION = tuple(int(part) for part in os.environ["STANDIN_TENSORRT"].split(".")[:3])
GPU = ("Orin", "8.7", "16")
ALL = {
    "onnx", "loadEngine", "saveEngine", "timingCacheFile", "profilingVerbosity", "iterations", "warmUp", "duration",
    "exportTimes", "exportOutput", "exportProfile", "exportLayerInfo", "dumpProfile", "loadInputs", "useCudaGraph",
    "useSpinWait", "noDataTransfers", "separateProfileRun", "noTF32",
}  # fmt: skip
KNOWN = {
    (8, 5): ALL | {"fp16", "int8", "buildOnly", "streams"},
    (8, 6): ALL | {"fp16", "int8", "skipInference", "infStreams"},
    (10, 0): ALL | {"fp16", "int8", "skipInference", "infStreams", "stronglyTyped"},
    (11, 0): ALL | {"skipInference", "infStreams", "noCudaGraph", "noSpinWait", "includeDataTransfers"},
}
FLAGS = KNOWN[max(since for since in KNOWN if since <= VERSION[:2])]


def banner(word):
    unit = 10000 if VERSION[0] >= 10 else 1000
    number = VERSION[0] * unit + VERSION[1] * 100 + VERSION[2]
    return f"&&&& {word} TensorRT.trtexec [TensorRT v{number}] # {' '.join(sys.argv)}"


def say(text, level="I"):
    print(f"[04/07/2025-23:59:33] [{level}] {text}")


def fail(text):
    say(text, "E")
    print(banner("FAILED"))
    sys.exit(1)


def options():
    found = {}
    for argument in sys.argv[1:]:
        name, _, value = argument.removeprefix("--").partition("=")
        if name not in FLAGS or not argument.startswith("--"):
            fail(f"Unknown option: {argument}")
        found[name] = value or True
    return found


def recorded(name):
    lines = (RECORDED / name).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("# "))


def enabled(*, on):
    return "Enabled" if on else "Disabled"


def conditions(given):
    """Print the conditions that the flags set; the defaults changed with 11."""
    new = VERSION[0] >= 11
    transfers = "includeDataTransfers" in given if new else "noDataTransfers" not in given
    spin = "noSpinWait" not in given if new else "useSpinWait" in given
    graph = "noCudaGraph" not in given if new else "useCudaGraph" in given
    if os.environ.get("STANDIN_TRTEXEC") == "ignores graphs":
        graph = False
    say("=== Inference Options ===")
    say(f"Data transfers: {enabled(on=transfers)}")
    say(f"Spin-wait: {enabled(on=spin)}")
    say(f"CUDA Graph: {enabled(on=graph)}")
    say("=== Device Information ===")
    say(f"Selected Device: {os.environ.get('STANDIN_GPU', GPU[0])}")
    say(f"Compute Capability: {GPU[1]}")
    say(f"SMs: {GPU[2]}")
    say(f"TensorRT version: {'.'.join(map(str, VERSION))}")


def build(given):
    model = onnx.load(given["onnx"])
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if quantized and VERSION[0] < 11 and "int8" not in given:
        fail("[TRT] Error Code 4: Internal Error (int8 is not enabled for a network with Q/DQ)")
    header = {"version": VERSION, "detailed": given.get("profilingVerbosity") == "detailed"}
    Path(given["saveEngine"]).write_bytes(json.dumps(header).encode() + b"\n" + model.SerializeToString())
    if "timingCacheFile" in given:
        with Path(given["timingCacheFile"]).open("ab") as cache:
            cache.write(b"timed;")
    say("Engine built in 10.7204 sec.")


def infer(given):
    head, _, model = Path(given["loadEngine"]).read_bytes().partition(b"\n")
    header = json.loads(head)
    if tuple(header["version"]) != VERSION:
        fail("[TRT] the engine plan file is not compatible with this version of TensorRT")
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    bound = "Created input binding for {} with dimensions {}" if VERSION < (8, 6, 0) else (
        "Input binding for {} with dimensions {} is created."
    )  # fmt: skip
    files = dict(pair.split(":", 1) for pair in str(given.get("loadInputs", "")).split(",") if ":" in pair)
    feed = {}
    for value in session.get_inputs():
        say(bound.format(value.name, "x".join(map(str, value.shape))))
        values = np.fromfile(files[value.name], np.float32) if value.name in files else np.zeros(value.shape)
        if values.size != np.prod(value.shape):
            fail(f"The size of the file for {value.name} is not that of its tensor")
        feed[value.name] = values.astype(np.float32).reshape(value.shape)
    export(given, header, session, feed)


def export(given, header, session, feed):
    if "exportOutput" in given:
        found = zip([value.name for value in session.get_outputs()], session.run(None, feed), strict=True)
        rows = [
            f'{{ "name" : "{name}"\n  , "dimensions" : "{"x".join(map(str, array.shape))}"\n'
            f'  , "values" : [ {", ".join(f"{value:.6g}" for value in array.ravel())} ]\n  }}\n'
            for name, array in found
        ]
        Path(given["exportOutput"]).write_text("[\n  " + ", ".join(rows) + "]\n", encoding="utf-8")
    if "exportTimes" in given:
        rows = recorded("tensorrt-times.json").splitlines()[1:-1]
        repeated = rows * (1 if given["iterations"] == "1" else 20)
        rows = [f"{', ' if i else '  '}{row.lstrip(' ,')}" for i, row in enumerate(repeated)]
        Path(given["exportTimes"]).write_text("[\n" + "\n".join(rows) + "\n]\n", encoding="utf-8")
    if "exportLayerInfo" in given:
        text = recorded("tensorrt-layers.json")
        if not header["detailed"]:
            text = json.dumps({"Layers": [layer["Name"] for layer in json.loads(text)["Layers"]], "Bindings": []})
        Path(given["exportLayerInfo"]).write_text(text, encoding="utf-8")
    if "exportProfile" in given:
        Path(given["exportProfile"]).write_text(recorded("tensorrt-profile.json"), encoding="utf-8")


def main():
    print(banner("RUNNING"))
    if sys.argv[1:] == ["--help"]:
        print("=== Model Options ===")
        return
    given = options()
    conditions(given)
    build(given) if "onnx" in given else infer(given)
    print(banner("PASSED"))


if __name__ == "__main__":
    main()
