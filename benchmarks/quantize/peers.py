"""`edgedistill quantize FILE --target KIT` with its defaults, beside ONNX Runtime's recommended static quantization and NNCF.

Two float files: MLPerf Tiny's ResNet-8 as published, on CIFAR-10-JPEG, and a person detector's network, MobileNetV1 0.25 for
96x96 images, trained here to tell animals from vehicles in enlarged CIFAR-10-JPEG images, because no pictures of people are
at hand. All take the same 512 training images. Every file is opened as an application opens it: no special options, one thread.

    python -m pip install nncf edgedistill
    OMP_NUM_THREADS=1 python benchmarks/quantize/peers.py benchmarks/quantize/peers.json --work runs/quantize-peers

takes some 10 minutes of one core; files and errors that are there are not made again, so a second call only times the files.
`--processes 0` leaves the times as they are. Times are processor time, which other work on the machine disturbs least.
"""

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "cifar10"))
import cifar10_jpeg

from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.write import save_onnx
from edgedistill.models.depthwise import mobilenetv1
from edgedistill.runtime.files import write_json

ANIMALS = (2, 3, 4, 5, 6, 7)
CALIBRATION, TESTED = 512, 2000
EPOCHS, BATCH, RATE = 4, 64, 6e-3
ROUNDS, CALLS = 20, 20
NNCF_ORT, NNCF_OPENVINO = "NNCF on ONNX", "NNCF on OpenVINO"
OURS = "edgedistill"
FILES = {
    "onnxruntime": {
        OURS: "ours-ort.onnx",
        "ONNX Runtime U8S8": "ort-u8s8.onnx",
        "ONNX Runtime U8S8, reduce_range": "ort-u8s8-reduced.onnx",
        "ONNX Runtime U8U8": "ort-u8u8.onnx",
        NNCF_ORT: "nncf.onnx",
        "float": "float.onnx",
    },
    "openvino": {
        OURS: "ours-openvino.onnx",
        NNCF_OPENVINO: "nncf.xml",
        NNCF_ORT: "nncf.onnx",
        "ONNX Runtime U8S8": "ort-u8s8.onnx",
        "ONNX Runtime U8S8, reduce_range": "ort-u8s8-reduced.onnx",
        "ONNX Runtime U8U8": "ort-u8u8.onnx",
        "float": "float.onnx",
    },
}
"""Each engine with its files. ONNX Runtime's manual recommends U8S8 for x86, and reduce_range or U8U8 without VNNI."""


def arguments():
    parser = argparse.ArgumentParser(description="Post-training int8 of a file, against ONNX Runtime's and NNCF's.")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--work", type=Path, default=Path("runs/quantize-peers"), help="where files are kept")
    parser.add_argument("--processes", type=int, default=7, help="fresh processes that time all files in turns")
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def resnet8(folder):
    """Write the published ResNet-8 with a fixed batch, and its data: images of 0 to 255."""
    data = Path(os.environ.get("EDGEDISTILL_DATA", cifar10_jpeg.REPOSITORY.parent / "shared" / "data"))
    model = onnx.load(data / "teachers" / "mlperf_resnet8_float.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, folder / "float.onnx")
    for name, (images, labels, _), count in parts():
        chosen = np.random.default_rng(0).permutation(len(images))[:count]
        inputs = images[chosen].transpose(0, 3, 1, 2).astype(np.float32)
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels[chosen])


def parts():
    return ("calibration", cifar10_jpeg.train(), CALIBRATION), ("test", cifar10_jpeg.test(), TESTED)


def person(folder):
    """Train MobileNetV1 0.25 for 96x96 images, and write its file and its data: images of -1 to 1."""
    images, labels, _ = cifar10_jpeg.train()
    images, targets = images[::5], torch.from_numpy(np.isin(labels[::5], ANIMALS).astype(np.int64))
    torch.manual_seed(0)
    model, generator = mobilenetv1(2, 3, 0.25, 1.0), torch.Generator().manual_seed(0)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: steps // EPOCHS * BATCH].split(BATCH):
            batch = enlarged(images[rows.numpy()])
            loss = nn.functional.cross_entropy(model(batch), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    save_onnx(export_onnx(model.eval(), (enlarged(images[:1]),), 17), folder / "float.onnx")
    for name, (some, numbers, _), count in parts():
        chosen = np.random.default_rng(0).permutation(len(some))[:count]
        answers = np.isin(numbers[chosen], ANIMALS).astype(np.int64)
        np.savez(folder / f"{name}.npz", inputs=enlarged(some[chosen]).numpy(), labels=answers)


def enlarged(images):
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return nn.functional.interpolate(pixels, size=96, mode="bilinear", align_corners=False)


MODELS = {"mlperf-resnet8": resnet8, "mobilenetv1-0.25-96": person}


def make(folder):
    """Quantize a float file every way; return the seconds that each took."""
    seconds = {}
    images = [image[None] for image in np.load(folder / "calibration.npz")["inputs"]]
    for kit in ("ort", "openvino"):
        command = [sys.executable, "-m", "edgedistill", "-q", "quantize", str(folder / "float.onnx"), "--target", kit]
        command += ["--data", str(folder / "calibration.npz"), "-o", str(folder / f"ours-{kit}.onnx")]
        seconds[f"{OURS}, {kit}"] = timed(lambda command=command: subprocess.run(command, check=True))
    return seconds | by_onnxruntime(folder, images) | by_nncf(folder, images)


def by_onnxruntime(folder, images):
    """Quantize as ONNX Runtime's manual recommends for x86, for processors with and without VNNI."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter({"input": image} for image in images)

        def get_next(self):
            return next(self.left, None)

    prepared, seconds = str(folder / "prepared.onnx"), {}
    quant_pre_process(str(folder / "float.onnx"), prepared)
    ways = {"u8s8": {}, "u8s8-reduced": {"reduce_range": True}, "u8u8": {"weight_type": QuantType.QUInt8}}
    for name, more in ways.items():
        chosen = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8} | more
        out = str(folder / f"ort-{name}.onnx")
        seconds[name] = timed(lambda out=out, chosen=chosen: quantize_static(prepared, out, Reader(), **chosen))
    return seconds


def by_nncf(folder, images):
    """Quantize with NNCF's defaults, on both of its backends."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset(images, lambda image: {"input": image})
    start = time.monotonic()
    onnx.save(nncf.quantize(onnx.load(folder / "float.onnx"), data, subset_size=len(images)), folder / "nncf.onnx")
    middle = time.monotonic()
    model = nncf.quantize(
        openvino.convert_model(str(folder / "float.onnx")), nncf.Dataset(images), subset_size=len(images)
    )
    openvino.save_model(model, str(folder / "nncf.xml"), compress_to_fp16=False)
    return {NNCF_ORT: middle - start, NNCF_OPENVINO: time.monotonic() - middle}


def timed(work):
    start = time.monotonic()
    work()
    return time.monotonic() - start


def in_onnxruntime(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"input": image})[0]


def in_openvino(path):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda image: request.infer({0: image}, share_inputs=True, share_outputs=True)[0]


OPENERS = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def errors(folder):
    """Return accuracy, agreement with the float file and squared error over variance, for each engine and file."""
    test = np.load(folder / "test.npz")
    images, labels = [image[None] for image in test["inputs"]], test["labels"]
    exact = answers(in_onnxruntime(folder / "float.onnx"), images)
    variance = float(((exact - exact.mean(0)) ** 2).sum())
    found = {}
    for engine, files in FILES.items():
        found[engine] = {}
        for name, file in files.items():
            got = answers(OPENERS[engine](folder / file), images)
            found[engine][name] = {
                "accuracy": float((got.argmax(1) == labels).mean()),
                "agreement": float((got.argmax(1) == exact.argmax(1)).mean()),
                "squared_error": float(((got - exact) ** 2).sum()) / variance,
                "bytes": size(folder / file),
            }
    return found


def answers(call, images):
    return np.concatenate([np.array(call(image)) for image in images]).astype(np.float64)


def size(path):
    return sum(one.stat().st_size for one in (path, path.with_suffix(".bin")) if one.exists())


def time_once(folder):
    """Return for each engine and file the processor time of an inference in each round, in us; in a round, all files take turns."""
    images = [image[None] for image in np.load(folder / "test.npz")["inputs"][:CALLS]]
    found = {}
    for engine, files in FILES.items():
        calls = {name: OPENERS[engine](folder / file) for name, file in files.items()}
        found[engine] = {name: [] for name in calls}
        for turn in range(ROUNDS + 1):
            for name, call in list(calls.items())[:: 1 if turn % 2 else -1]:
                start = time.process_time_ns()
                for image in images:
                    call(image)
                if turn:
                    found[engine][name].append((time.process_time_ns() - start) / len(images) / 1000)
    return found


def times(folder, processes):
    """Time all files in fresh processes; return the medians, and each process's median ratio to our file."""
    runs = []
    for _ in range(processes):
        command = [sys.executable, __file__, "-", "--time", str(folder)]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    found = {}
    for engine, files in FILES.items():
        found[engine] = {}
        for name in files:
            each = [np.array(run[engine][name]) for run in runs]
            ratios = [
                float(np.median(mine / np.array(run[engine][OURS]))) for mine, run in zip(each, runs, strict=True)
            ]
            found[engine][name] = {
                "cpu_us": float(np.median([np.median(mine) for mine in each])), "ratios_to_edgedistill": ratios,
                "ratio": float(np.median(ratios)),
            }  # fmt: skip
    return found


def has_vnni():
    """Return whether this processor adds products of 8 bits in 32 bits; what the files are made for depends on it."""
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())


def main():
    options = arguments()
    torch.set_num_threads(1)
    if options.time is not None:
        print(json.dumps(time_once(options.time)))
        return
    result = json.loads(options.out.read_text()) if options.out.exists() else {"models": {}}
    packages = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "numpy")
    result |= {"versions": {name: version(name) for name in packages} | {"python": platform.python_version()}}
    result |= {"vnni": has_vnni(), "samples": TESTED}
    for name, write in MODELS.items():
        folder = options.work / name
        folder.mkdir(parents=True, exist_ok=True)
        entry = result["models"].setdefault(name, {})
        if not (folder / "test.npz").exists():
            write(folder)
        if not (folder / "nncf.xml").exists():
            entry["seconds"] = make(folder)
        if "errors" not in entry:
            entry["errors"] = errors(folder)
        if options.processes:
            entry["times"] = times(folder, options.processes)
        write_json(options.out, result)
        print_table(name, entry)


def print_table(name, entry):
    """Print a line for each engine and file."""
    for engine, files in entry["errors"].items():
        for file, one in files.items():
            time_ = entry.get("times", {}).get(engine, {}).get(file, {})
            print(
                f"{name:20}{engine:12}{file:32}{one['accuracy']:7.2%} agrees {one['agreement']:7.2%} "
                f"error {one['squared_error']:8.3%} {one['bytes']:9,} {time_.get('cpu_us', 0):7.1f} us {time_.get('ratio', 0):5.2f}"
            )


if __name__ == "__main__":
    main()
