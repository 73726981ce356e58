"""The runner for phones: built here and run with ONNX Runtime's own library, and on an emulated ARM64 where there is one."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import metrics
import numpy as np
import onnxruntime
import pytest

from tests.support.jobs import TARGETS
from tests.support.tiny_onnx import build, build_pair, record

ENCODINGS = ("s8-f32", "u8-i32", "s8-i32")
QEMU = os.environ.get("EDGEDISTILL_ARM64")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny models in float and in each encoding, with recorded inputs and outputs as raw files."""
    folder = tmp_path_factory.mktemp("models")
    made = {"fp32": build(folder / "fp32.onnx")}
    made |= {encoding: build(folder / f"{encoding}.onnx", encoding) for encoding in ENCODINGS}
    with np.load(record(folder / "io.npz", made)) as arrays:
        arrays["input.x"].tofile(folder / "x")
        for name in made:
            arrays[f"expected.{name}.logits"].tofile(folder / f"{name}.logits")
    return folder


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """The runner for this machine, as a function from arguments to exit code and JSON."""
    libraries = list((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if shutil.which("cc") is None or not libraries:
        pytest.skip("there is no C compiler, or this ONNX Runtime has no library of its own")
    program = tmp_path_factory.mktemp("runner") / "edrun"
    subprocess.run([str(TARGETS / "android" / "build.sh"), str(program)], check=True)

    def run(*arguments, env=None):
        verb, *rest = map(str, arguments)
        command = [str(program), verb, "--lib", str(libraries[0]), *rest]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        return done.returncode, json.loads(done.stdout.rsplit("\n", 2)[-2])

    return run


def of(models, name):
    return "--model", models / f"{name}.onnx", "--input", models / "x"


@pytest.mark.parametrize("name", ["fp32", *ENCODINGS])
def test_it_answers_as_recorded(runner, models, tmp_path, name):
    options = ("--expected", models / f"{name}.logits", "--output", tmp_path / "out")
    code, answer = runner("check", *of(models, name), *options)
    assert code == 0, answer
    assert answer["requests"] == 40
    assert answer["latency_ns"] is None
    got, wanted = np.fromfile(tmp_path / "out", np.float32), np.fromfile(models / f"{name}.logits", np.float32)
    assert answer["parity"]["max_abs_diff"] == pytest.approx(np.abs(got - wanted).max(), rel=1e-6)
    same = (got.reshape(40, -1).argmax(1) == wanted.reshape(40, -1).argmax(1)).mean()
    assert answer["parity"]["agreement"] == pytest.approx(same)
    assert same >= 0.95


def test_other_outputs_are_told(runner, models, tmp_path):
    wrong = np.roll(np.fromfile(models / "fp32.logits", np.float32).reshape(40, -1), 1, axis=1)
    wrong.tofile(tmp_path / "wrong")
    _, answer = runner("check", *of(models, "fp32"), "--expected", tmp_path / "wrong")
    assert answer["parity"]["agreement"] == 0.0
    wrong[3, 2] = np.nan
    wrong.tofile(tmp_path / "wrong")
    code, answer = runner("check", *of(models, "fp32"), "--expected", tmp_path / "wrong")
    assert code == 5
    assert "infinite or undefined" in answer["error"]


def test_requests_that_are_all_the_same_have_no_agreement(runner, models, tmp_path):
    inputs = np.fromfile(models / "x", np.float32).reshape(40, -1)
    answers = np.fromfile(models / "fp32.logits", np.float32).reshape(40, -1)
    np.repeat(inputs[:1], 40, 0).tofile(tmp_path / "x")
    for by, expected in ((0, None), (1, 0)):
        (np.repeat(answers[:1], 40, 0) + np.float32(by)).tofile(tmp_path / "same")
        options = ("--model", models / "fp32.onnx", "--input", tmp_path / "x", "--expected", tmp_path / "same")
        _, answer = runner("check", *options)
        assert answer["parity"]["agreement"] == expected


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model of two inputs and two outputs, with its recorded requests and answers as raw files."""
    folder = tmp_path_factory.mktemp("pair")
    with np.load(record(folder / "io.npz", {"fp32": build_pair(folder / "pair.onnx")})) as arrays:
        for name in arrays.files:
            arrays[name].tofile(folder / name)
        return folder, {name: arrays[name] for name in arrays.files}


def test_every_output_of_a_model_with_two_inputs_is_compared(runner, pair, tmp_path):
    folder, arrays = pair
    answers = [option for name in ("map", "logits") for option in ("--expected", folder / f"expected.fp32.{name}")]
    options = ("--model", folder / "pair.onnx", "--input", folder / "input.x", "--input", folder / "input.gain")
    code, answer = runner("check", *options, *answers, "--output", tmp_path / "map", "--output", tmp_path / "logits")
    assert code == 0, answer
    assert answer["parity"]["max_abs_diff"] < 1e-5
    assert answer["parity"]["outputs"]["map"]["agreement"] == 1.0
    assert answer["parity"]["outputs"]["logits"]["agreement"] == pytest.approx(1.0)
    got = np.fromfile(tmp_path / "logits", np.float32).reshape(40, -1)
    assert np.allclose(got, arrays["expected.fp32.logits"].reshape(40, -1), atol=1e-5)
    assert [told["name"] for told in answer["outputs"]] == ["map", "logits"]


def test_the_second_output_lowers_the_agreement_as_the_harness_says(runner, pair, tmp_path):
    folder, arrays = pair
    wanted = arrays["expected.fp32.logits"]
    noisy = wanted + np.random.default_rng(0).normal(0, wanted.std() / 3, wanted.shape).astype(np.float32)
    noisy.tofile(tmp_path / "noisy")
    options = ("--model", folder / "pair.onnx", "--input", folder / "input.x", "--input", folder / "input.gain")
    _, answer = runner("check", *options, "--expected", folder / "expected.fp32.map", "--expected", tmp_path / "noisy")
    assert answer["parity"]["agreement"] == answer["parity"]["outputs"]["logits"]["agreement"]
    assert answer["parity"]["agreement"] == pytest.approx(metrics.fidelity(wanted, noisy), abs=1e-5)
    assert answer["parity"]["max_abs_diff"] == answer["parity"]["outputs"]["logits"]["max_abs_diff"]


def test_samples_are_kept(runner, models, tmp_path):
    code, answer = runner("bench", *of(models, "fp32"), "--seconds", 0.2, "--samples", tmp_path / "raw")
    assert code == 0, answer
    latency = np.fromfile(tmp_path / "raw.latency_ns", np.int64)
    assert len(latency) == answer["n"] >= 50
    assert len(np.fromfile(tmp_path / "raw.preempted", np.uint8)) == answer["n"]
    assert len(np.fromfile(tmp_path / "raw.warmup_ns", np.int64)) == answer["warmup_n"] >= 50
    assert 0 < latency.sum() <= answer["wall_ns"]
    assert answer["wall_ns"] >= 0.2e9
    assert len(answer["affinity"]) == answer["threads"] == 1
    assert answer["peak_bytes"] is None or answer["peak_bytes"] >= answer["baseline_bytes"] > 0
    assert answer["load_ns"] > 0
    assert answer["first_inference_ns"] > 0


def test_work_says_how_often_and_when(runner, models):
    code, answer = runner("work", *of(models, "fp32"), "--seconds", 0.2)
    assert code == 0, answer
    assert answer["n"] > 0
    assert answer["end_ns"] - answer["begin_ns"] >= 0.2e9


def test_an_emulator_can_be_named(runner):
    _, answer = runner("probe", env=os.environ | {"EDGEDISTILL_EMULATED": 'a "box"'})
    assert answer["emulated"] == 'a "box"'
    assert answer["engine"] == {"name": "onnxruntime", "version": onnxruntime.__version__}
    assert runner("probe")[1]["emulated"] is None


def test_mistakes_are_explained(runner, models, tmp_path):
    (tmp_path / "short").write_bytes(b"\0" * 17)
    build(tmp_path / "any.onnx", batch="n")
    cases = [
        (("check", "--model", tmp_path / "none.onnx", "--input", models / "x"), 5, "none.onnx"),
        (("check", "--model", models / "fp32.onnx"), 2, "the model has 1 inputs, but 0 files"),
        (("check", "--model", models / "fp32.onnx", "--input", tmp_path / "short"), 2, "not a multiple of a request"),
        (("check", "--model", models / "fp32.onnx", "--input", tmp_path / "none"), 2, "none: cannot be read"),
        (("check", "--model", tmp_path / "any.onnx", "--input", models / "x"), 5, "'x' has no fixed size"),
        (("check", *of(models, "fp32"), "--expected", tmp_path / "short"), 2, "too few recorded outputs"),
        (("bench", *of(models, "fp32"), "--threads", 999), 5, "999 threads were requested"),
        (("bench", "--wrong", 1), 2, "unknown option '--wrong'"),
        (("other",), 2, "'other' is not a command; the commands are: probe, check, bench, work"),
    ]
    for arguments, code, text in cases:
        found, answer = runner(*arguments)
        assert found == code, answer
        assert text in answer["error"]


def emulated(cpu, *arguments, insn=False):
    """Run the runner on an emulated ARM64; return its JSON, and the instructions that it took."""
    command = [str(Path(QEMU, "run")), cpu, "./edrun", *map(str, arguments)]
    environment = os.environ | ({"INSN": "1"} if insn else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(done.stderr.strip().rsplit("\n", 1)[-1])["instructions"] if insn else {}
    return json.loads(done.stdout.strip().rsplit("\n", 1)[-1]), counted


@pytest.mark.skipif(
    not QEMU, reason="EDGEDISTILL_ARM64 names no emulated device; make one: benchmarks/arm64/prepare.sh"
)
@pytest.mark.parametrize("name", ["fp32", "u8-i32", "s8-i32"])
def test_an_emulated_arm64_answers_as_recorded(models, name):
    answer, _ = emulated("cortex-a76", "check", *of(models, name), "--expected", models / f"{name}.logits")
    assert answer["emulated"] == "qemu-aarch64"
    assert answer["latency_ns"] is None
    assert answer["parity"]["agreement"] >= 0.95
    assert answer["parity"]["max_abs_diff"] < (1e-5 if name == "fp32" else 0.05)


@pytest.mark.skipif(
    not QEMU, reason="EDGEDISTILL_ARM64 names no emulated device; make one: benchmarks/arm64/prepare.sh"
)
def test_instructions_are_counted_and_the_same_each_time(models):
    def each(cpu):
        few, many = (emulated(cpu, "check", *of(models, "u8-i32"), "--requests", n, insn=True)[1] for n in (1, 11))
        return {kind: (many[kind] - few[kind]) / 10 for kind in many}

    once, again = each("cortex-a76"), each("cortex-a76")
    assert once["dot"] == again["dot"] > 0
    assert once["all"] == pytest.approx(again["all"], rel=0.02)
    assert each("cortex-a53")["dot"] == 0
