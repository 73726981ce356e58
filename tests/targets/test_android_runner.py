"""The runner for phones: built here and run with ONNX Runtime's own library, and on an emulated ARM64 where there is one."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import metrics
import numpy as np
import onnx
import onnxruntime
import pytest

from tests.support.jobs import TARGETS
from tests.support.small_onnx import text_model
from tests.support.sshd import wait_until
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


class Runner(NamedTuple):
    """The runner: called with arguments, it returns the exit code and the JSON."""

    program: Path
    library: Path

    def command(self, verb, *rest):
        return [str(self.program), verb, "--lib", str(self.library), *map(str, rest)]

    def __call__(self, *arguments, env=None):
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, env=env)
        return done.returncode, json.loads(done.stdout.rsplit("\n", 2)[-2])


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """The runner for this machine."""
    libraries = list((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if shutil.which("cc") is None or not libraries:
        pytest.skip("there is no C compiler, or this ONNX Runtime has no library of its own")
    program = tmp_path_factory.mktemp("runner") / "edrun"
    subprocess.run([str(TARGETS / "android" / "build.sh"), str(program)], check=True)

    return Runner(program, libraries[0])


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


def inferences(path):
    """Return the round, the kind and the latency of each inference that the runner wrote."""
    return np.fromfile(path, np.dtype([("ns", "<i8"), ("round", "<i4"), ("kind", "<i4")]))


def test_every_inference_of_a_bench_is_kept(runner, models, tmp_path):
    code, told = runner("bench", *of(models, "fp32"), "--samples", tmp_path / "raw", "--seconds", 0.2)
    assert code == 0, told
    (answer,) = told["arms"]
    found = inferences(tmp_path / "raw")
    warm_up, lead, clean, preempted = (int((found["kind"] == kind).sum()) for kind in range(4))
    assert warm_up == answer["warmup_n"] >= 50
    assert lead == answer["lead_n"] >= answer["bursts"]
    assert clean + preempted == answer["n"] >= 50
    assert told["turns"] == [[i, 0] for i in range(answer["bursts"])]
    assert (found["round"][: answer["warmup_n"]] == -1).all()
    for number in range(answer["bursts"]):
        burst = found[found["round"] == number]
        assert burst["kind"][0] == 1
        assert (np.diff((burst["kind"] >= 2).astype(int)) >= 0).all()
    assert 0 < found["ns"][found["kind"] >= 2].sum() <= answer["wall_ns"]
    assert answer["wall_ns"] >= 0.01e9 * answer["bursts"]
    assert len(answer["affinity"]) == answer["threads"] == 1
    assert answer["peak_bytes"] is None or answer["peak_bytes"] >= answer["baseline_bytes"] > 0
    assert answer["load_ns"] > 0
    assert answer["first_inference_ns"] > 0


def bench(models, tmp_path, *names, **settings):
    """Return the options of a bench of several models, each with a file for its inferences, and its settings."""
    files = [part for name in names for part in (*of(models, name), "--samples", tmp_path / f"{name}.raw")]
    return "bench", *files, *(part for key, value in settings.items() for part in (f"--{key}", value))


def test_models_take_turns_in_a_balanced_order_that_the_seed_decides(runner, models, tmp_path):
    names = ("fp32", "u8-i32", "s8-f32")
    code, told = runner(*bench(models, tmp_path, *names, seconds=0.06, seed=5))
    assert code == 0, told
    bursts = [inferences(tmp_path / f"{name}.raw")["round"] for name in names]
    assert [len(set(rounds)) - 1 for rounds in bursts] == [answer["bursts"] for answer in told["arms"]]
    orders = [[arm for number, arm in told["turns"] if number == wanted] for wanted in range(told["turns"][-1][0] + 1)]
    assert sorted(orders[0]) == [0, 1, 2]
    for even, odd in zip(orders[::2], orders[1::2], strict=False):
        assert [arm for arm in odd if arm in even] == [arm for arm in even[::-1] if arm in odd]
    first = [runner(*bench(models, tmp_path, *names, seconds=0.02, seed=seed))[1]["turns"][:3] for seed in (5, 6)]
    assert first[0] == told["turns"][:3] != first[1]


def test_cold_caches_leave_no_inferences_out(runner, models, tmp_path):
    code, told = runner(*bench(models, tmp_path, "fp32", seconds=0.02, caches="cold"))
    assert code == 0, told
    assert told["arms"][0]["lead_n"] == 0
    assert told["arms"][0]["n"] >= 3 * told["arms"][0]["bursts"]
    assert (
        runner(*bench(models, tmp_path, "fp32", caches="hot"))[1]["error"] == "--caches must be warm or cold, not 'hot'"
    )


@pytest.mark.slow
def test_a_model_of_long_bursts_takes_part_in_fewer_rounds(runner, models, tmp_path):
    waves = " ".join(f"v{i + 1} = Sin(v{i})" for i in range(5))
    graph = f"(float[1] x) => (float[1] y) {{ v0 = Expand(x, shape) {waves} y = ReduceSum<keepdims=1>(v5) }}"
    onnx.save(text_model(graph, shape=np.array([12_000_000])), tmp_path / "long.onnx")
    np.zeros(1, np.float32).tofile(tmp_path / "one")
    slow = ("--model", tmp_path / "long.onnx", "--input", tmp_path / "one", "--samples", tmp_path / "long.raw")
    code, told = runner(*bench(models, tmp_path, "fp32", seconds=0.2), *slow)
    assert code == 0, told
    many, few = ([number for number, arm in told["turns"] if arm == i] for i in range(2))
    assert many[0] == few[0] == 0
    assert max(np.diff(few)) > 1
    assert max(np.diff(many)) == 1
    found = inferences(tmp_path / "long.raw")
    assert all((found["kind"][found["round"] == number] == 1).sum() == 1 for number in few)
    assert all((found["kind"][found["round"] == number] >= 2).sum() >= 3 for number in few)


def test_a_model_that_does_not_load_leaves_the_others(runner, models, tmp_path):
    code, told = runner("bench", "--model", tmp_path / "no.onnx", *bench(models, tmp_path, "fp32", seconds=0.05)[1:])
    assert code == 5
    assert "no.onnx" in told["arms"][0]["error"]
    assert told["arms"][1]["bursts"] == len(told["turns"])


def processes(parent):
    """Return the ids of the child processes of a process."""
    return [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def state(process):
    """Return the state of a process: "T" is stopped; None if it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0].replace("Z", "") or None
    except (FileNotFoundError, ProcessLookupError):  # ended before the file was opened, or before it was read
        return None


def started(runner, *arguments):
    """Start the runner, and wait until its models take turns; return it and its two processes."""
    program = subprocess.Popen(runner.command(*arguments), stdout=subprocess.PIPE, text=True)
    both = wait_until(lambda: len(found := processes(program.pid)) == 2 and found)
    wait_until(lambda: state(both[1]) == "T")
    return program, both


def test_a_process_that_is_killed_leaves_the_others(runner, models, tmp_path):
    program, both = started(runner, *bench(models, tmp_path, "fp32", "u8-i32", seconds=2))
    os.kill(both[1], signal.SIGKILL)
    told = json.loads(program.communicate()[0].rsplit("\n", 2)[-2])
    assert program.returncode == 5
    assert "killed by signal 9, as the system does when memory is short" in told["arms"][1]["error"]
    assert (inferences(tmp_path / "fp32.raw")["kind"] >= 2).sum() == told["arms"][0]["n"]


def test_a_runner_that_is_killed_leaves_no_processes(runner, models, tmp_path):
    program, both = started(runner, *bench(models, tmp_path, "fp32", "u8-i32", seconds=20))
    program.kill()
    program.communicate()
    wait_until(lambda: not any(map(state, both)))


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
        (("bench", "--seconds", 1), 2, "--model is missing"),
        (("check", *of(models, "fp32"), *of(models, "u8-i32")), 2, "check takes one --model; only bench takes several"),
        (("bench", "--threads", 1, *of(models, "fp32")), 2, "--threads must follow the --model"),
        (("bench", *of(models, "fp32"), "--threads", 0), 2, "--threads must be above 0"),
        (("bench", "--wrong", 1), 2, "unknown option '--wrong'"),
        (("other",), 2, "'other' is not a command; the commands are: probe, check, bench, work"),
    ]
    for arguments, code, text in cases:
        found, answer = runner(*arguments)
        assert found == code, answer
        assert text in answer["error"]
    found, answer = runner("bench", *of(models, "fp32"), "--threads", 999)
    assert found == 5
    assert "999 threads were requested" in answer["arms"][0]["error"]


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


@pytest.mark.slow
@pytest.mark.skipif(
    not QEMU, reason="EDGEDISTILL_ARM64 names no emulated device; make one: benchmarks/arm64/prepare.sh"
)
def test_models_take_turns_on_an_emulated_arm64(models, tmp_path):
    told, _ = emulated("cortex-a76", *bench(models, tmp_path, "fp32", "u8-i32", seconds=0.03))
    assert sorted(told["turns"][:2]) == [[0, 0], [0, 1]]
    for name, answer in zip(("fp32", "u8-i32"), told["arms"], strict=True):
        assert (inferences(tmp_path / f"{name}.raw")["kind"] >= 2).sum() == answer["n"] >= 9
