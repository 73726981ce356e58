"""One batch through teacher and student before anything is trained, and errors of the user's code with their file and line."""

from pathlib import Path

import numpy as np
import pytest

from edgedistill.errors import ConfigError
from tests.support.command import edgedistill
from tests.support.learning import checked, config_of

CODE = """
from types import SimpleNamespace
import numpy as np
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.flat, self.dense = nn.Flatten(), nn.Linear(64, classes)
    def forward(self, x):
        return self.dense(self.flat(x))

class Failing(Net):
    def forward(self, x):
        return lookup(x)

def lookup(x):
    return {}["gone"]

class Argmax(Net):
    def forward(self, x):
        return super().forward(x).argmax(1, keepdim=True).expand(-1, 3)

class Frozen(Net):
    def forward(self, x):
        return super().forward(x).detach()

class Deaf(Net):
    def forward(self, x):
        return self.dense.bias.expand(len(x), -1)

class Infinite(Net):
    def forward(self, x):
        return super().forward(x) / 0

class ZeroHead(Net):
    def __init__(self, classes):
        super().__init__(classes)
        nn.init.zeros_(self.dense.weight), nn.init.zeros_(self.dense.bias)

class Named(Net):
    def forward(self, x):
        return SimpleNamespace(logits=super().forward(x), cache=None)

def wide(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(65, classes))

def broken(classes):
    return Net("three")

def data():
    return np.zeros(3).reshape(2, 2), None

def loss(student, teacher, labels):
    return student @ teacher
"""
CONFIG = """
name = "x"
data = { train = "train.npz", test = "test.npz" }
teacher = { model = "nets:Failing" }
student = { model = "nets:Net" }
[[target]]
name = "pc"
kit = "ort"
"""


def line_of(text: str) -> int:
    """Return the number of the line of CODE that holds a text."""
    return next(number for number, line in enumerate(CODE.splitlines(), 1) if text in line)


SHAPE = r"does not take a batch of shape \(2, 1, 8, 8\): "
RIGHT = r"it must return logits of shape \(2, 3\)"
STUDENTS = {
    "Net": None,
    "ZeroHead": None,
    "Named": None,
    "Failing": rf"^student\.model: nets:Failing {SHAPE}KeyError: 'gone' \(nets\.py:{line_of('gone')}\); {RIGHT}$",
    "wide": rf"^student\.model: nets:wide {SHAPE}RuntimeError: .*mat1 and mat2 .*; {RIGHT}$",
    "broken": rf"^model 'nets:broken': called with classes=3, it raises TypeError: .* \(nets\.py:{line_of('nn.Linear(64')}\)$",
    "Argmax": r"nets:Argmax outputs int64\(2, 3\); expected logits",
    "Frozen": r"nets:Frozen outputs have no gradient",
    "Deaf": r"nets:Deaf outputs the same for different inputs, .* forward ignores its input",
    "Infinite": r"nets:Infinite outputs NaN or infinity for the first samples",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    np.savez(tmp_path / "train.npz", inputs=images[:50], labels=np.arange(50) % 3)
    np.savez(tmp_path / "test.npz", inputs=images[50:], labels=np.arange(10) % 3)
    (tmp_path / "nets.py").write_text(CODE)
    return tmp_path


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_that_cannot_be_trained_is_refused_with_the_line_of_its_error(folder: Path, name: str) -> None:
    message, config = (
        STUDENTS[name],
        config_of(folder, teacher={"model": "nets:Net"}, student={"model": f"nets:{name}"}),
    )
    if message is None:
        checked(config)
        return
    with pytest.raises(ConfigError, match=message):
        checked(config)


def test_errors_of_own_data_and_an_own_loss_have_their_line(folder: Path) -> None:
    nets = {"teacher": {"model": "nets:Net"}, "student": {"model": "nets:Net"}}
    line = line_of("np.zeros(3)")
    with pytest.raises(
        ConfigError, match=rf"^data: 'nets:data' raises ValueError: cannot reshape .* \(nets\.py:{line}\)$"
    ):
        checked(config_of(folder, data={"train": "nets:data"}, **nets))
    with pytest.raises(
        ConfigError,
        match=rf"\(nets\.py:{line_of('student @')}\) for logits of shape \(16, 3\); it must return a scalar",
    ):
        checked(config_of(folder, distill={"loss": "nets:loss"}, **nets))


def test_the_traceback_is_for_verbose(folder: Path) -> None:
    (folder / "c.toml").write_text(CONFIG)
    short, long = (edgedistill(*verbose, "distill", "c.toml", cwd=folder) for verbose in ((), ("-v",)))
    assert short.returncode == long.returncode == 2
    assert short.stderr.startswith(
        "edgedistill: teacher.model: nets:Failing does not take a batch of shape (2, 1, 8, 8): "
    )
    assert len(short.stderr.strip().splitlines()) == 1
    assert f'nets.py", line {line_of("gone")}, in lookup' in long.stderr
