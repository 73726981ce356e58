"""Losses on features of tokens: relations against MiniLMv2's definition in plain numpy, and padding that does not count."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from edgedistill.config.encoder import read_encoder_config
from edgedistill.config.training import FEATURE_LOSSES, DistillConfig
from edgedistill.distill.features import FeatureTeacher, feature_loss, feature_student
from edgedistill.distill.losses import main_loss
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch
from edgedistill.losses.terms import FEATURE_TERMS, relations
from edgedistill.models.encoder import Encoder
from edgedistill.models.narrow import part_of_transformer
from edgedistill.models.weights import load_weights
from edgedistill.tasks.table import find_task
from tests.support.encoders import write_encoder

Array = np.ndarray
RNG = np.random.default_rng(0)
LENGTHS = (7, 3, 5)
STUDENT, TEACHER = RNG.normal(size=(3, 6, 7)), RNG.normal(size=(3, 12, 7))
KEPT = np.arange(7) < np.array(LENGTHS)[:, None]


def relations_by_hand(student: Array, teacher: Array, heads: int, lengths: tuple[int, ...]) -> float:
    """Return the loss of MiniLMv2 for one kind of relation: the mean over heads and tokens of each text, then over texts."""
    texts = []
    for x, y, length in zip(student, teacher, lengths, strict=True):
        total = 0.0
        for ours, theirs in zip(np.split(x[:, :length], heads), np.split(y[:, :length], heads), strict=True):
            wanted, got = (softmax(part.T @ part / np.sqrt(len(part)), axis=1) for part in (theirs, ours))
            total += (wanted * np.log(wanted / got)).sum()
        texts.append(total / (heads * length))
    return float(np.mean(texts))


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_relations_are_those_of_minilm_whatever_the_widths(heads: int) -> None:
    x, y = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    assert float(relations(x, y, heads)) == pytest.approx(
        relations_by_hand(STUDENT, TEACHER, heads, (7, 7, 7)), rel=1e-9
    )
    masked = float(relations(x, y, heads, torch.from_numpy(KEPT)))
    assert masked == pytest.approx(relations_by_hand(STUDENT, TEACHER, heads, LENGTHS), rel=1e-9)


def plan_of(loss: str, **keys: object) -> DistillConfig:
    own = {"relation_heads": 2} if loss == "relations" else {}
    layers = {"student_layers": ("encoder.layer.0",), "teacher_layers": ("encoder.layer.2",)}
    return DistillConfig.model_validate({"loss": loss, "views": 0, "hard_weight": 0} | layers | own | keys)


@pytest.mark.parametrize("loss", FEATURE_LOSSES)
def test_padding_does_not_count(loss: str) -> None:
    term, plan = FEATURE_TERMS[loss], plan_of(loss)
    x, y = torch.from_numpy(STUDENT).repeat(1, 2, 1), torch.from_numpy(TEACHER)
    kept = torch.from_numpy(np.arange(7) < 4)[None].expand(3, 7)
    short = term(x[:, :, :4], y[:, :, :4], plan, None)
    torch.testing.assert_close(term(x, y, plan, kept), short)
    noise = torch.from_numpy(RNG.normal(0, 9, (3, 12, 7))) * ~kept[:, None]
    torch.testing.assert_close(term(x + noise, y - noise, plan, kept), short)
    assert not torch.isclose(term(x + noise, y - noise, plan, None), short)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = write_encoder(tmp_path_factory.mktemp("encoder"))
    model = Encoder(read_encoder_config(folder), "mean", None, normalize=True)
    load_weights(model, folder / "model.safetensors")
    return model.eval()


def inputs_of(length: int) -> dict[str, torch.Tensor]:
    """Return two texts of 5 and 3 tokens, padded."""
    mask = (torch.arange(length) < torch.tensor([[5], [3]])).long()
    return {"input_ids": torch.arange(7, 7 + length).expand(2, -1) * mask, "attention_mask": mask}


def loss_at(teacher: Encoder, plan: DistillConfig, length: int) -> torch.Tensor:
    frozen = FeatureTeacher(teacher, plan.teacher_layers, "fp32")
    inputs, task = inputs_of(length), find_task("sentence-embedding")
    learner = feature_student(plan, part_of_transformer(teacher, 1, 0.5), frozen, inputs, 0).train()
    loss = feature_loss(plan, main_loss(task.distillation_loss(plan, None), None), frozen, None)
    value = loss(learner(*inputs.values()), Batch(inputs, torch.zeros(2, 2)))
    value.backward()
    assert learner.student.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    return value.detach()


QUERIES = {
    f"{who}_layers": tuple(f"encoder.layer.{number}.attention.self.{part}" for part in ("query", "key", "value"))
    for who, number in (("student", 0), ("teacher", 2))
}


@pytest.mark.parametrize("loss", FEATURE_LOSSES)
def test_narrower_encoders_learn_from_layers_whatever_the_padding(teacher: Encoder, loss: str) -> None:
    plan = plan_of(loss, **(QUERIES if loss == "relations" else {}))
    short = loss_at(teacher, plan, 5)
    assert short > 0
    torch.testing.assert_close(loss_at(teacher, plan, 9), short, rtol=1e-4, atol=1e-6)


def test_heads_that_do_not_divide_the_channels_are_refused(teacher: Encoder) -> None:
    with pytest.raises(
        ConfigError, match=r"relation_heads: 3 does not divide the channels of 'encoder\.layer\.0' \(2, 8, 5\)"
    ):
        loss_at(teacher, plan_of("relations", relation_heads=3), 5)


def test_positions_that_are_not_tokens_are_refused() -> None:
    class Halved(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.merge = torch.nn.Embedding(40, 4), torch.nn.Conv1d(4, 4, 2, 2)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.merge((self.table(ids) * mask[:, :, None]).transpose(1, 2)).mean(2)

    plan = plan_of("hint", student_layers=("merge",), teacher_layers=("merge",))
    with pytest.raises(ConfigError, match=r"positions of 'merge' \(2, 4, 2\) are not the 5 tokens"):
        feature_student(plan, Halved(), FeatureTeacher(Halved(), ("merge",), "fp32"), inputs_of(5), 0)
