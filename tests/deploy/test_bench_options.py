"""The options of bench, and doctor, as a user runs them."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from edgedistill.cli.main import cli
from edgedistill.config.load import load_config
from edgedistill.errors import ConfigError, DeviceError
from tests.support.tiny_onnx import build

CONFIG = """
name = "x"
[data]
train = "train.npz"
test = "test.npz"
[teacher]
model = "zoo:resnet20"
[student]
model = "zoo:mlperf-resnet8"
[[target]]
name = "pc"
kit = "ort"
watts = 12.5
[bench]
watts = 15
"""


def edgedistill(*arguments):
    done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    return done.output


@pytest.mark.slow
def test_a_sustained_run_is_in_the_answer_and_its_series_in_the_samples(tmp_path):
    model = build(tmp_path / "tiny.onnx")
    output = edgedistill(
        "-q",
        "bench",
        model,
        "--target",
        "ort",
        "--processes",
        1,
        "--seconds",
        0.2,
        "--soak",
        0.1,
        "--run-dir",
        tmp_path / "run",
    )
    assert "sustained run of 0." in output
    (result,) = (tmp_path / "run" / "measurements").glob("*.json")
    measured = json.loads(result.read_text())
    assert measured["soak"]["seconds"] == pytest.approx(6, abs=2)
    with np.load(result.with_suffix(".npz")) as raw:
        assert len(raw["soak.p50_ns"]) >= 4


@pytest.mark.slow
def test_an_engine_that_refuses_a_model_is_named_once(tmp_path):
    model = onnx.load(str(build(tmp_path / "tiny.onnx")))
    model.graph.node[0].domain = "acme"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    onnx.save(model, str(tmp_path / "strange.onnx"))
    options = ("--target", "ort", "--processes", 1, "--seconds", 0.1, "--run-dir", tmp_path / "run")
    with pytest.raises(DeviceError, match=r"^ort: (?!ort: )"):
        edgedistill("-q", "bench", tmp_path / "strange.onnx", *options)
    with pytest.raises(DeviceError, match=r"^strange, ort: (?!ort: )"):
        edgedistill("-q", "bench", tmp_path / "strange.onnx", tmp_path / "tiny.onnx", *options)


def test_a_meter_that_is_not_there_is_said_beside_the_table(tmp_path):
    model = build(tmp_path / "tiny.onnx")
    options = ("--target", "ort", "--processes", 1, "--seconds", 0.1, "--meter", tmp_path / "none.csv")
    output = edgedistill("-q", "bench", model, *options, "--run-dir", tmp_path / "run", "--json")
    (row,) = json.loads(output)["groups"][0]["rows"]
    assert (
        row["measurement"]["reasons"]["energy_uj"] == f"the meter's file {tmp_path}/none.csv: No such file or directory"
    )


def test_a_configuration_takes_minutes_a_meter_and_watts(tmp_path):
    path = tmp_path / "edgedistill.toml"
    path.write_text(CONFIG, encoding="utf-8")
    config = load_config(path, ("bench.soak_minutes=10", "bench.meter=/dev/shm/meter.csv"))
    assert (config.bench.soak_minutes, config.bench.meter, config.bench.watts) == (10, "/dev/shm/meter.csv", 15)
    assert config.target[0].watts == 12.5
    with pytest.raises(ConfigError, match=r"bench\.watts: input should be greater than 0"):
        load_config(path, ("bench.watts=0",))


def test_doctor_says_what_the_device_is_where_energy_is_read_and_what_disturbs():
    lines = edgedistill("doctor").splitlines()
    assert lines[0].startswith("device     ")
    assert lines[1].startswith("energy     ")
    kits = [line for line in lines if line.startswith(("ort ", "openvino "))]
    assert len(kits) == 2
