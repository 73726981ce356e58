"""Students and int8 students that say nothing about their inputs are noticed where they are made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgedistill.compare.comparison import summarise_run
from edgedistill.compare.load import MeasurementSet, load_run
from edgedistill.compare.notebook import to_text
from edgedistill.errors import AccuracyError
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Pipeline, Plan, run_pipeline
from edgedistill.records.stages import QuantizedRecord, StudentRecord
from edgedistill.report.report import render_report
from edgedistill.runtime.folder import Run
from tests.support.learning import config_of
from tests.support.listener import Listener

NETS = """
from pathlib import Path
import torch
from safetensors.torch import load_file
from torch import nn

class Net(nn.Module):
    def __init__(self, columns, scale=1.0):
        super().__init__()
        self.head, self.columns = nn.Linear(24, 3), columns
        self.register_buffer("scale", torch.cat([torch.ones(16), scale * torch.ones(8)]), persistent=False)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x * self.scale * self.columns(x))

def _loaded(net):
    net.load_state_dict(load_file(Path(__file__).with_name("teacher.safetensors")), strict=False)
    return net

def teacher():
    return Net(torch.ones_like)

def blind():
    return Net(lambda x: torch.cat([torch.zeros(16), torch.ones(8)]))

class Dying(Net):
    def __init__(self):
        super().__init__(torch.ones_like)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.steps += self.training
        return super().forward(x) * (self.steps < 3)

def constant():
    return Dying()

def fragile():
    return _loaded(Net(torch.ones_like, 1e6))

class Normalized(Net):
    def __init__(self, columns, scale):
        super().__init__(columns, scale)
        self.norm = nn.LayerNorm(24, elementwise_affine=False)

    def forward(self, x):
        return super().forward(2 * self.norm(x.flatten(1)))

def fragile_transformer():
    return _loaded(Normalized(torch.ones_like, 1e6))
"""
"""Students of 24 values: `blind` reads the 8 that are noise, `constant` dies in training, and int8 cannot represent the input of
`fragile` and `fragile_transformer`."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with samples of three classes in 16 values, 8 values of noise, and a good teacher."""
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(3, 16)), rng.integers(0, 3, 1500)
    values = np.concatenate([rng.normal(size=(1500, 16)) + 2 * centres[labels], rng.normal(size=(1500, 8))], 1)
    for name, rows in (("train", slice(0, 1200)), ("test", slice(1200, None))):
        np.savez(tmp_path / f"{name}.npz", inputs=values[rows].astype(np.float32), labels=labels[rows])
    weight = torch.from_numpy(centres).float()
    state = {"head.weight": torch.cat([weight, torch.zeros(3, 8)], 1), "head.bias": -weight.square().sum(1)}
    save_file(state, tmp_path / "teacher.safetensors")
    return tmp_path


def made(
    folder: Path,
    student: str,
    until: str,
    heard: Listener,
    mode: str = "ptq",
    skip: tuple[str, ...] = (),
    **distill: object,
) -> Pipeline:
    plan = {"views": 1, "epochs": 2, "batch_size": 64, "precision": "fp32", "optimizer": "adamw"} | distill
    config = config_of(
        folder, data={"train": "train.npz", "test": "test.npz", "kind": "features", "val_fraction": 0.25},
        teacher={"model": "nets:teacher", "weights": "teacher.safetensors", "engine": "torch"},
        student={"model": f"nets:{student}"}, distill=plan, quantize={"mode": mode, "epochs": 1, "skip": skip},
        target=[{"name": "pc", "kit": "ort", "precisions": ["int8"]}],
    )  # fmt: skip
    return run_pipeline(config, Run(folder / student), find_kits(()), heard, Plan(until))


def test_a_student_at_chance_is_named_in_the_terminal_the_record_and_at_the_top_of_the_report(folder: Path) -> None:
    heard = Listener()
    record = made(folder, "blind", "distill", heard, control=True).records[StudentRecord]
    student, control = (str(one) for one in record.findings)
    assert student.startswith("warning: distill: the student is no better than chance: accuracy ")
    assert "; the teacher has 100.00%: train" in student
    assert control.startswith("warning: distill: the control is no better than chance: ")
    assert [line for line in heard.said if line.startswith("warning")] == [student, control]
    page = render_report(folder / "blind")
    assert page.index("the student is no better than chance") < page.index('class="answer"')
    comparison = summarise_run(load_run(folder / "blind"))
    assert comparison.findings == record.findings
    assert to_text(comparison.groups, comparison.left_out, comparison.findings).startswith(
        "warning: distill: the student"
    )
    assert MeasurementSet("file", ()).findings == ()


def test_a_constant_student_is_an_error(folder: Path) -> None:
    message = r"^distill: the student gives the same output for all of 300 samples, so the run stops here; train for more epochs"
    with pytest.raises(AccuracyError, match=message) as raised:
        made(folder, "constant", "distill", Listener())
    assert raised.value.exit_code == 4


@pytest.mark.slow
def test_int8_that_is_no_better_than_chance_is_an_error_where_float_is_useful(folder: Path) -> None:
    heard = Listener()
    message = r"^quantize: the int8 student (is no better than chance: accuracy|gives the same output) .* the float student is useful; set"
    with pytest.raises(AccuracyError, match=message):
        made(folder, "fragile", "quantize", heard, lr=1e-12)
    assert not [line for line in heard.said if line.startswith("warning")]
    assert not (folder / "fragile" / "quantized" / "model.safetensors").exists()


def test_auto_tries_its_other_methods_on_a_transformer_that_int8_makes_useless(folder: Path) -> None:
    heard = Listener()
    with pytest.raises(AccuracyError, match="the float student is useful; keep layers in float with skip"):
        made(folder, "fragile_transformer", "quantize", heard, mode="auto", lr=1e-12)
    assert any(line.endswith("and the float student is useful; auto tries its other methods") for line in heard.said)
    tried = [line.split()[1] for line in heard.said if "validation accuracy" in line and line.startswith("quantize: ")]
    assert tried == ["static:", "dynamic:", "ptq:", "ptq,", "qat:"]


def test_skip_names_modules_of_a_transformer_of_one_shape_in_the_mode_auto(folder: Path) -> None:
    ready = made(folder, "fragile_transformer", "quantize", Listener(), mode="auto", skip=("head",), lr=1e-12)
    record = ready.records[QuantizedRecord]
    assert (record.mode, record.skip, record.holds) == ("ptq", ("head",), True)
    assert record.layers == {"head": "float: skipped"}
