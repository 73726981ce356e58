"""A user's own loss: called as promised, and named when it cannot be used."""

from pathlib import Path

import pytest
import torch

from edgedistill.config.training import DistillConfig
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch, OutputLoss
from edgedistill.losses.logits import custom_term
from edgedistill.runtime.user_code import resolve_function
from edgedistill.tasks.table import find_task

STUDENT, TEACHER = torch.randn(2, 16, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 10
OWN = """
import math
import torch

def good(student_logits, teacher_logits, labels):
    assert student_logits.dtype == torch.float32
    return (student_logits - teacher_logits).abs().mean() + 0 * labels.sum()
def whole(student_logits, teacher_logits, labels):
    return (student_logits - teacher_logits).abs()
def number(student_logits, teacher_logits, labels):
    return 3.0
def detached(student_logits, teacher_logits, labels):
    return student_logits.detach().mean()
def endless(student_logits, teacher_logits, labels):
    return student_logits.mean() * math.inf
def two(student_logits, teacher_logits):
    return student_logits.mean()
def failing(student_logits, teacher_logits, labels):
    raise KeyError("gone")
def labelled(student_logits, teacher_logits, labels):
    return torch.nn.functional.cross_entropy(student_logits, labels)
nothing = 3
"""


TASK = find_task("classification")


def term(name: str, folder: Path) -> OutputLoss:
    return custom_term(f"own_losses:{name}", resolve_function(f"own_losses:{name}", folder), TASK.mixed_labels)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own_losses.py").write_text(OWN)
    return tmp_path


def test_a_loss_of_ones_own(own: Path) -> None:
    plan = DistillConfig(loss="own_losses:good", hard_weight=0.0)
    got = TASK.distillation_loss(plan, resolve_function(plan.loss, own))(
        STUDENT, Batch({"input": STUDENT}, LABELS, TEACHER)
    )
    assert float(got) == pytest.approx(float((STUDENT - TEACHER).abs().mean()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("whole", r"'own_losses:whole' returns a tensor of shape \(16, 10\); expected a scalar tensor"),
        ("number", "'own_losses:number' returns float; expected a scalar tensor"),
        ("detached", "'own_losses:detached' has no gradient"),
        ("endless", "'own_losses:endless' returns -?inf for finite logits"),
        ("two", "'own_losses:two' raises TypeError: two.. takes 2 positional arguments"),
        ("failing", "'own_losses:failing' raises KeyError: 'gone'"),
        ("nothing", "'own_losses:nothing' is not a function but int"),
        ("missing", "has no 'missing'"),
    ],
)
def test_a_loss_of_ones_own_that_cannot_be_used(own: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        term(name, own)(STUDENT.clone().requires_grad_(), Batch({"input": STUDENT}, LABELS, TEACHER))


def test_with_mixup_labels_are_shares_of_classes(own: Path) -> None:
    partners, share = LABELS.roll(1), torch.linspace(0, 1, 16)
    batch = Batch({"input": STUDENT}, LABELS, TEACHER, partner_labels=partners, share=share)
    got = term("labelled", own)(STUDENT.clone().requires_grad_(), batch)
    log = STUDENT.log_softmax(1)
    expected = -(share * log[range(16), LABELS] + (1 - share) * log[range(16), partners]).mean()
    torch.testing.assert_close(got.detach(), expected)
