"""Quantization in steps on a network that post-training int8 fails on, as a user runs it."""

import json
from pathlib import Path

import pytest

from tests.support.command import TWO_PROCESSES, edgedistill, fresh
from tests.support.kits import write_kit

NETWORK = '''
import torch
from torch import nn


class Uneven(nn.Sequential):
    """A depthwise-separable block whose channels start 1 : 32,000 in size."""

    def __init__(self, cin, cout, stride):
        norm, point = nn.BatchNorm2d(cin), nn.Conv2d(cin, cout, 1, bias=False)
        super().__init__(
            nn.Conv2d(cin, cin, 3, stride, 1, groups=cin, bias=False), norm, nn.ReLU(),
            point, nn.BatchNorm2d(cout), nn.ReLU(),
        )
        with torch.no_grad():
            norm.weight.copy_(torch.logspace(-2.25, 2.25, cin))
            point.weight.div_(norm.weight.reshape(1, -1, 1, 1))


def uneven(classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Uneven(16, 24, 2), Uneven(24, 32, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes),
    )
'''
CONFIG = """
name = "uneven"
[data]
train = "edgedistill.data.digits:train"
test = "edgedistill.data.digits:test"
mean = [0.305]
std = [0.376]
[teacher]
model = "zoo:resnet20"
width = 0.5
epochs = 4
engine = "torch"
precision = "fp32"           # processors with AMX would compute in bfloat16
[student]
model = "network:uneven"
[distill]
precision = "fp32"
epochs = 8
batch_size = 32
views = 1
[quantize]
ranges = "minmax"
activations = "unsigned"     # as on every processor: this machine's own choice would decide what post-training loses
weights = "full"
max_drop = 1.0
[[target]]
name = "pc"
kit = "ort"
precisions = ["int8"]
[bench]
processes = 1
seconds = 0.2
"""

KIT = """
name = "planted"
title = "ONNX Runtime, slower by a sleep in one of the precisions"
engine = "onnxruntime"
package = "onnxruntime"
precisions = ["fp32", "int8"]
opset = 20
install = "python3 -m pip install onnxruntime"
[encoding]
x86_64 = "u8-i32"
aarch64 = "s8-i32"
"""
ENGINE = """
import os, shutil, time

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
SLOW = "{slow}"


def describe():
    import onnxruntime
    return {{"name": "onnxruntime", "version": onnxruntime.__version__}}


def compile(model, out, precision, threads):
    shutil.copy(str(model), str(out / "model.onnx"))
    return {{"entry": "model.onnx", "files": ["model.onnx"], "extras": []}}


def load(entry, precision, threads):
    return Session(entry, 0.004 if precision == SLOW else 0.0)


class Session:
    def __init__(self, entry, sleep):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(entry), options, providers=["CPUExecutionProvider"])
        self._sleep = sleep
        self.inputs = [one.name for one in self._session.get_inputs()]

    def set(self, feed):
        self._feed = feed

    def infer(self):
        self._outputs = self._session.run(None, self._feed)
        time.sleep(self._sleep)

    def outputs(self):
        return {{one.name: value for one, value in zip(self._session.get_outputs(), self._outputs)}}

    def threads(self):
        return None

    def executed(self):
        return None, "the planted engine does not say"
"""


def quantized(folder: Path) -> dict:
    manifest = json.loads((folder / "runs" / "uneven" / "manifest.json").read_text())
    return manifest["stages"]["quantize"]["record"]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantize")
    (folder / "edgedistill.toml").write_text(CONFIG)
    (folder / "network.py").write_text(NETWORK)
    result = edgedistill("distill", "edgedistill.toml", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
def test_auto_fine_tunes_for_a_target_that_takes_int8_only(distilled):
    ptq = ("--set", "quantize.mode=ptq", "--set", "quantize.max_drop=99", "--until", "quantize")
    assert edgedistill("run", "edgedistill.toml", *ptq, cwd=distilled).returncode == 0
    limit = 0.75 * quantized(distilled)["steps"][0]["drop"]  # how much it loses depends on the processor that trained
    result = edgedistill("run", "edgedistill.toml", "--set", f"quantize.max_drop={limit:.3f}", cwd=distilled)
    assert result.returncode == 0, result.stderr
    record = quantized(distilled)
    first, last = record["steps"][0], record["steps"][-1]
    assert first["method"] == "ptq"
    assert first["drop"] > 1.0, "the network was built so that this fails"
    assert not first["holds"]
    assert [step["holds"] for step in record["steps"]] == [False] * (len(record["steps"]) - 1) + [True]
    assert (record["mode"], record["holds"], record["skip"]) == (last["method"], True, last["float_layers"])
    assert last["drop"] <= limit
    assert [one["reason"] for one in record["speeds"]] == ["the target takes int8 only"]
    assert [step["method"] for step in record["steps"]] == ["ptq", "qat"]
    assert record["sensitivity"] == []
    assert "pc takes int8 only (its precisions list no float), so auto leaves no layer in float" in result.stderr
    report = (distilled / "runs" / "uneven" / "report.html").read_text()
    assert "Sensitivity of" not in report
    assert "parts of the report are outdated" not in report


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "tried"), [("99", ["mse"]), ("0.0001", ["mse", "minmax"])])
def test_post_training_tries_the_largest_magnitudes_if_the_least_error_loses_too_much(distilled, limit, tried):
    settings = (f"quantize.max_drop={limit}", "quantize.mode=ptq", "quantize.ranges=auto")
    arguments = [word for one in settings for word in ("--set", one)]
    result = edgedistill("run", "edgedistill.toml", *arguments, "--until", "quantize", cwd=distilled)
    assert result.returncode == 0, result.stderr
    record = quantized(distilled)
    assert [(step["method"], step["ranges"]) for step in record["steps"]] == [("ptq", name) for name in tried]
    assert record["val_accuracy"] == max(step["val_accuracy"] for step in record["steps"])
    assert ("ptq, minmax ranges: " in result.stderr) == (len(tried) > 1)


def on_planted(folder: Path, slow: str, *settings: str, again: bool = False) -> tuple[str, dict]:
    """Quantize with "auto" for an engine that is slow in one precision, and return the messages and the record."""
    kits = folder / f"kits-{slow}" if again else write_kit(folder / f"kits-{slow}", KIT, ENGINE.format(slow=slow))
    overrides = ("target.pc.kit=planted", 'target.pc.precisions=["fp32","int8"]', *settings)
    arguments = [word for override in overrides for word in ("--set", override)]
    arguments += ["--from", "quantize"] if again else []
    result = edgedistill("--targets", kits, "quantize", "edgedistill.toml", *arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stderr, quantized(folder)


@pytest.mark.slow
def test_auto_stops_after_post_training_where_int8_does_not_pay(distilled):
    said, record = on_planted(distilled, "int8")
    assert [step["method"] for step in record["steps"]] == ["ptq"]
    assert (record["mode"], record["holds"], record["outcome"]) == ("ptq", False, "does not pay")
    (speed,) = record["speeds"]
    assert (speed["target"], speed["compared_with"], speed["verdict"]) == ("pc", "fp32", "slower")
    assert speed["ci95"][0] > 1
    assert 0 < speed["size_ratio"] < 1
    assert record["sensitivity"] == []
    (finding,) = record["findings"]
    assert (finding["severity"], finding["subject"]) == ("warning", "quantize")
    assert "int8 does not pay: it is slower than float on every target with int8 (pc " in finding["text"]
    assert finding["text"] in said


@pytest.mark.slow
def test_the_speed_that_a_mixed_model_keeps_is_measured(distilled):
    said, record = on_planted(distilled, "fp32", "quantize.epochs=1", "quantize.max_drop=0.001")
    assert record["speeds"][0]["verdict"] == "faster"
    assert record["outcome"] != "does not pay"
    mixed = [step for step in record["steps"] if step["method"] == "mixed"]
    assert mixed
    for step in mixed:  # each mixed model runs as int8, without the sleep of float
        assert step["speed_kept"] == pytest.approx(1, abs=0.2)
    assert "of the time that int8 saves on pc" in said
    assert "layers ranked in" in said
    # Each layer that matters alone, in float and in int8, on the target's own kit; the others are the last.
    timed = [one for one in record["sensitivity"] if one["measured_on"] is not None]
    assert timed == record["sensitivity"][: len(timed)]
    assert {one["measured_on"] for one in timed} == {"planted, local"}
    assert all(one["fp32_us"] > 0 and one["int8_us"] > 0 for one in timed)
    errors = sum(one["output_error"] for one in record["sensitivity"])
    for one in record["sensitivity"][len(timed) :]:
        assert one["output_error"] < 0.01 * errors
        assert "not timed: it causes less than 1%" in one["reason"]
    assert max(one["drop"] for one in record["sensitivity"]) > 0, "what fails together fails a little alone"
    assert edgedistill("report", "runs/uneven", cwd=distilled).returncode == 0
    report = (distilled / "runs" / "uneven" / "report.html").read_text()
    assert "Speed kept" in report
    assert "Sensitivity of" in report
    said, again = on_planted(distilled, "fp32", "quantize.epochs=1", "quantize.max_drop=0.001", again=True)
    assert "the latencies that an earlier run measured are used, from runs/uneven/quantized/timings" in said
    assert again["file"] == record["file"], "the same student, bit for bit"
    for decided in ("speeds", "sensitivity", "skip", "mode"):
        assert again[decided] == record[decided]
    assert [step["speed_kept"] for step in again["steps"]] == [step["speed_kept"] for step in record["steps"]]


@pytest.mark.slow
def test_a_target_that_cannot_be_measured_does_not_stop_auto(distilled):
    _, record = on_planted(distilled, "none", "target.pc.device=ssh://nobody@127.0.0.1:1", "quantize.epochs=1")
    (speed,) = record["speeds"]
    assert speed["verdict"] is None
    assert speed["reason"].startswith("not measured: ")
    mixed = [step for step in record["steps"] if step["method"] == "mixed"]
    assert mixed
    for step in mixed:
        assert "int8 is faster than float on no target" in step["reasons"]["speed_kept"]
    kept = [step["size_kept"] for step in mixed]
    assert kept == sorted(kept, reverse=True)
    assert all(share >= 0.5 for share in kept[:-1]), "below half of the size saved, fine-tuning comes next"
    assert all(one["measured_on"] is None and one["weights"] > 0 for one in record["sensitivity"])
    costs = [one["output_error"] / one["weights"] for one in record["sensitivity"]]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.slow
def test_fine_tuning_wins_back_what_post_training_lost_and_is_not_done_twice(distilled):
    settings = ("--set", "quantize.mode=qat", "--set", "quantize.epochs=6")  # "auto" may have kept what 5 epochs give
    result = edgedistill("quantize", "edgedistill.toml", *settings, cwd=distilled)
    assert result.returncode == 0, result.stderr
    record = quantized(distilled)
    assert [step["method"] for step in record["steps"]] == ["ptq", "qat"]
    assert record["mode"] == "qat"
    assert len(record["steps"][1]["history"]) == 6
    assert record["steps"][1]["drop"] < record["steps"][0]["drop"] - 1.0
    assert not list((distilled / "runs" / "uneven" / "quantized").glob("*-resume.pt"))
    again = edgedistill("quantize", "edgedistill.toml", *settings, cwd=distilled)
    assert "qat: epoch" not in again.stderr
    assert edgedistill("report", "runs/uneven", cwd=distilled).returncode == 0
    report = (distilled / "runs" / "uneven" / "report.html").read_text()
    assert "an earlier stage has run again since: export, compile, bench" in report


def test_what_does_not_hold_is_said(distilled):
    settings = ("--set", "quantize.mode=ptq", "--set", "quantize.max_drop=0.5")
    result = edgedistill("quantize", "edgedistill.toml", *settings, cwd=distilled)
    assert result.returncode == 0, result.stderr
    said = 'against the float student on validation data, and max_drop is 0.5: set [quantize] mode = "auto", raise max_drop, or ship'
    assert said in result.stderr
    assert quantized(distilled)["holds"] is False


@pytest.mark.slow
def test_two_processes_fine_tune_together(distilled):
    settings = ("--set", "quantize.mode=qat", "--set", "quantize.epochs=2")
    result = fresh("quantize", "edgedistill.toml", *settings, cwd=distilled, launcher=TWO_PROCESSES)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("qat: epoch 2") == 1  # one process speaks
    record = quantized(distilled)
    assert record["steps"][1]["drop"] < record["steps"][0]["drop"]
