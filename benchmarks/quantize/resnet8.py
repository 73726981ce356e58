"""MLPerf Tiny's ResNet-8 in int8: against its own float student, seed by seed, and beside NNCF and ONNX Runtime.

The float students of resnet8.toml, each quantized after training and by QAT, with signed and with unsigned activations, and by the
peers from the same float ONNX file and the same 512 training images: accuracy on all 10,000 test images in each engine, the file's
size, the precision of each layer, and one-thread latency, all files in turn in one process.

    python -m pip install nncf 'edgedistill[trt-check]'
    OMP_NUM_THREADS=1 python benchmarks/quantize/resnet8.py benchmarks/quantize/resnet8.json --work runs/quantize-resnet8

takes some 70 minutes of one core; seeds that the file has already are not measured again.
"""

import argparse
import json
import logging
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import nncf
import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgedistill.config.load import load_config
from edgedistill.data.views import plain_views
from edgedistill.deploy.onnx_file import BenchOptions, bench_onnx, prepare_onnx
from edgedistill.deploy.stages import TIMERS
from edgedistill.distill.loading import load_student
from edgedistill.export.onnx_export import export_onnx
from edgedistill.export.stages import GRAPHS
from edgedistill.export.trt_check import check_with_tensorrt
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.write import save_onnx
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.quantize.calibration import calibration_batches, example_input
from edgedistill.quantize.settings import declare_quantization
from edgedistill.quantize.stage import load_quantized, quantize_student
from edgedistill.quantize.timers import Services
from edgedistill.records.base import Encoding
from edgedistill.records.stages import StudentRecord
from edgedistill.runtime.files import write_json
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import workspace_of

CONFIG = Path(__file__).with_name("resnet8.toml")
OPSET, ROUNDS, CALLS = 20, 60, 100
ENGINES: dict[str, Encoding] = {"onnxruntime": "u8-i32", "openvino": "u8-f32"}
"""Each engine, and the encoding that its kit takes on x86."""
ENCODINGS: dict[str, tuple[Encoding, ...]] = {
    "signed": (*ENGINES.values(), "s8-f32"),
    "unsigned": tuple(ENGINES.values()),
}
"""What a checkpoint with such activations is written as, its canonical form last."""
SUFFIX = {"signed": "", "unsigned": "-unsigned"}
KITS = {"onnxruntime": "ort", "openvino": "openvino"}
RECOMMENDED = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}


def arguments():
    parser = argparse.ArgumentParser(description="ResNet-8 in int8, against float and the peers.")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/quantize-resnet8"), help="where runs and files are kept"
    )
    return parser.parse_args()


def measure_seed(options, seed):
    """Quantize one seed's student every way, and measure every file."""
    work = options.work / f"seed-{seed}"
    shutil.copytree(trained(options.work / "float"), work, dirs_exist_ok=True)
    settings, workspace = student_of(work, seed, "ptq", "signed")
    calibration, (test, labels) = calibration_of(settings), test_of(settings)
    exported = export_onnx(float_student(settings, workspace), examples_of(settings), OPSET)
    files = {"float": save(exported, work / "float.onnx")}
    for method in ("ptq", "qat"):
        for activations, encodings in ENCODINGS.items():
            canonical, name = quantized(work, seed, method, activations), f"{method}{SUFFIX[activations]}"
            for encoding in encodings:
                files[f"{name} {encoding}"] = save(encode(canonical, encoding), work / f"{name}-{encoding}.onnx")
    files |= peers(files["float"], calibration, work)
    rows = {name: row(name, path, test, labels) for name, path in files.items()}
    for name, ratio in ratios(files, test).items():
        rows[name] |= ratio
    return rows


def quantized(work, seed, method, activations):
    """Return the int8 model of a method; one that is there from an earlier try is not made again."""
    path = work / f"{method}{SUFFIX[activations]}-{ENCODINGS[activations][-1]}.onnx"
    if path.exists():
        return onnx.load(path)
    settings, workspace = student_of(work, seed, method, activations)
    record, examples = quantize_student(settings, workspace, Services(TIMERS, GRAPHS)), examples_of(settings)
    prepared = load_quantized(float_student(settings, workspace), examples, record, workspace.path(record.file))
    return export_onnx(prepared, examples, OPSET)


def trained(folder):
    """Return the run that holds the float students of all seeds, which are trained if they are not there."""
    run_pipeline(load_config(CONFIG, ()), Run(folder), find_kits(()), Reporter(), Plan(StudentRecord.stage))
    return folder


def student_of(work, seed, method, activations):
    """Return the settings of the quantize stage with one seed's student for the student, and where it works."""
    config = load_config(CONFIG, (f"quantize.mode={method}", f"quantize.activations={activations}"))
    pipeline = run_pipeline(config, Run(work), find_kits(()), Reporter(), Plan(StudentRecord.stage))
    settings = declare_quantization(pipeline.sources)
    trial = next(trial for trial in settings.float_student.trials if trial.seed == seed)
    student = settings.float_student.model_copy(update={"student": trial.student})
    workspace = workspace_of(pipeline.run, f"seed {seed}, {method}, {activations}", pipeline.report)
    return settings.model_copy(update={"float_student": student}), workspace


def float_student(settings, workspace):
    weights = workspace.path(settings.float_student.student.file)
    return load_student(settings.student, settings.interface, settings.seed, weights)


def train_views(settings):
    return plain_views(settings.dataset().train, settings.data, settings.views)


def examples_of(settings):
    return example_input(train_views(settings))


def calibration_of(settings):
    """Return the images that post-training quantization takes its ranges from here, for the peers to take theirs from."""
    batches = calibration_batches(train_views(settings), settings.quantize.samples, settings.seed)
    return [image[None] for (batch,) in batches for image in batch.numpy()]


def test_of(settings):
    test = settings.dataset().test
    views = plain_views(test, settings.data, settings.views)
    inputs = [views.batch(np.array([i]), np.zeros(1, np.int64))["input"].numpy() for i in range(len(test))]
    return inputs, test.labels


def save(model, path):
    save_onnx(model, path)
    return path


class Reader(CalibrationDataReader):
    """Feeds ONNX Runtime's calibration one image at a time."""

    def __init__(self, images):
        self.left = iter({"input": image} for image in images)

    def get_next(self):
        return next(self.left, None)


def peers(model, images, work):
    """Quantize a float file by NNCF's and ONNX Runtime's defaults, and as ONNX Runtime's manual recommends for x86."""
    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset(images, lambda image: {"input": image})
    by_nncf = save(nncf.quantize(onnx.load(model), data, subset_size=len(images)), work / "nncf.onnx")
    default, recommended, prepared = work / "ort-default.onnx", work / "ort-recommended.onnx", work / "prepared.onnx"
    quantize_static(str(model), str(default), Reader(images))
    quant_pre_process(str(model), str(prepared))
    quantize_static(str(prepared), str(recommended), Reader(images), **RECOMMENDED)
    return {"nncf": by_nncf, "onnxruntime default": default, "onnxruntime recommended": recommended}


def row(name, path, test, labels):
    """Return what a file is worth in each engine, how large it is, and what TensorRT's compiler makes of it."""
    result = {"bytes": path.stat().st_size, "engines": {}}
    for engine, run in RUNNERS.items():
        try:
            call = run(path)
            answers = np.array([call(image).argmax() for image in test])
        except RuntimeError as error:
            result["engines"][engine] = {"error": str(error).strip().splitlines()[-1]}
            continue
        layers = executed(path, engine)
        result["engines"][engine] = {"accuracy": float((answers == labels).mean()), "layers": layers}
    if name != "float":
        check = check_with_tensorrt(onnx.load(path))
        compiled = [product.compiled for product in check.products]
        result["tensorrt compiler"] = {"engine": check.engine, "refused": check.refused, "products": compiled}
    return result


def executed(path, engine):
    """Return how many weighted layers ran in each precision, as the kit reads it from the engine."""
    prepared = prepare_onnx(path, path.parent / "bench" / f"{path.stem}-{engine}", {})
    options, kit = BenchOptions(processes=1, seconds=0.2, passes=()), find_kits(())[KITS[engine]]
    return bench_onnx(prepared, kit, options, path.parent / "bench" / f"{path.stem}-{engine}", quiet).precision.executed


def quiet(text):
    """Say nothing of single measurements: the table is what counts."""


def ratios(files, test):
    """Return each file's latency over that of ours by QAT, per engine: medians of rounds in which all take turns."""
    found = {name: {} for name in files}
    for engine, encoding in ENGINES.items():
        calls = {name: call for name, path in files.items() if (call := runnable(engine, path)) is not None}
        times = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(timed(call, test[0]))
        base = np.array(times[f"qat {encoding}"])
        for name, each in times.items():
            found[name][f"{engine} latency over qat {encoding}"] = float(np.median(np.array(each) / base))
            found[name][f"{engine} us"] = float(np.median(each) / 1e3)
    return found


def runnable(engine, path):
    try:
        return RUNNERS[engine](path)
    except RuntimeError:
        return None


def timed(call, image):
    """Return the median nanoseconds of a call."""
    samples = []
    for _ in range(CALLS):
        start = time.perf_counter_ns()
        call(image)
        samples.append(time.perf_counter_ns() - start)
    return float(np.median(samples))


def by_onnxruntime(path):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"input": image})[0]


def by_openvino(path):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda image: request.infer({0: image}, share_inputs=True, share_outputs=True)[0]


RUNNERS = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}


def main():
    torch.set_num_threads(1)
    options = arguments()
    result = json.loads(options.out.read_text()) if options.out.exists() else {"seeds": {}}
    packages = ("edgedistill", "torch", "onnx", "onnxruntime", "openvino", "nncf", "numpy")
    result["versions"] = {name: version(name) for name in packages} | {"python": platform.python_version()}
    for seed in (str(seed) for seed in range(3)):
        if seed not in result["seeds"]:
            result["seeds"][seed] = measure_seed(options, int(seed))
            write_json(options.out, result)
        print_table(seed, result["seeds"][seed])


def print_table(seed, rows):
    """Print a line for each file and engine."""
    for name, found in rows.items():
        for engine, one in found["engines"].items():
            text = one.get("error") or f"{one['accuracy']:7.2%} {one['layers']}"
            print(f"seed {seed} {name:26}{found['bytes']:8,} {engine:12}{text} {found.get(f'{engine} us', 0):7.1f} us")


if __name__ == "__main__":
    main()
