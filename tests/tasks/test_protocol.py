"""What every task has, from its labels to its words."""

import inspect
from typing import get_type_hints

import numpy as np
import pytest
import torch

from edgedistill.config.training import LOSSES, DistillConfig, TrainingConfig
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch
from edgedistill.tasks.table import find_task, task_names
from edgedistill.tasks.task import Labels, Task

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(40, 3)).astype(np.float32)
RAW = {
    "classification": np.arange(40) % 3,
    "regression": RNG.normal(size=(40, 3)),
    "embedding": RNG.normal(size=(40, 3)),
    "multi-label": (RNG.normal(size=(40, 3)) > 0).astype(np.int64),
}
"""Labels of three classes, values or labels, as a user stores them."""


VECTORS = [name for name in task_names() if not find_task(name).is_dense and not find_task(name).scores_pairs]
"""The tasks whose labels and labelled output are those of single samples, (N, D); the others have tests of their own."""


def test_the_tasks_are_the_files_of_the_folder() -> None:
    names = "classification detection embedding multi-label regression segmentation sentence-embedding"
    assert task_names() == tuple(names.split())
    with pytest.raises(ConfigError, match=r"^data\.task: no task 'multilabel'; perhaps 'multi-label'\?"):
        find_task("multilabel")


@pytest.mark.parametrize("name", task_names())
def test_a_task_has_every_member_of_the_protocol(name: str) -> None:
    task = find_task(name)
    assert task.name == name
    attributes = [key for key in get_type_hints(Task) if not key.startswith("_")]
    methods = [key for key, value in vars(Task).items() if inspect.isfunction(value) and not key.startswith("_")]
    assert len(attributes) > 8
    assert len(methods) > 10
    for key in attributes:
        assert getattr(task, key, "missing") != "missing", key
    for key in methods:
        theirs, ours = (inspect.signature(one) for one in (getattr(Task, key), getattr(type(task), key)))
        assert list(ours.parameters) == list(theirs.parameters), key
    assert task.finetuning_loss in task.losses
    assert set(task.losses) <= set(LOSSES)


@pytest.mark.parametrize("name", VECTORS)
def test_labels_are_named_collated_and_learned_from(name: str) -> None:
    task = find_task(name)
    labels = [Labels(split, RAW[name], None) for split in ("train", "test")]
    assert task.names(labels, None, None) == ("0", "1", "2")
    assert task.names(labels, ("a", "b", "c"), None) == ("a", "b", "c")
    collated = torch.from_numpy(task.collate(RAW[name]))
    outputs = torch.from_numpy(OUTPUTS).requires_grad_()
    batch = Batch({"input": outputs.detach()}, collated, outputs.detach() + 1)
    for loss in (task.label_loss(TrainingConfig()), task.distillation_loss(DistillConfig(loss=task.losses[0]), None)):
        value = loss(outputs, batch)
        assert value.ndim == 0
        (gradient,) = torch.autograd.grad(value, outputs)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", VECTORS)
def test_a_loss_of_the_users_takes_the_place_of_the_term(name: str) -> None:
    task, seen = find_task(name), []

    def own(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels)
        return (student - teacher).abs().mean()

    outputs, labels = torch.from_numpy(OUTPUTS), torch.from_numpy(task.collate(RAW[name]))
    plan = DistillConfig(loss="mine:loss", hard_weight=0.25)
    batch = Batch({"input": outputs}, labels, outputs + 2)
    on_labels = task.label_loss(plan)(outputs, batch)
    assert float(task.distillation_loss(plan, own)(outputs, batch)) == pytest.approx(0.25 * float(on_labels) + 0.75 * 2)
    assert torch.equal(seen[0], labels)


@pytest.mark.parametrize("name", VECTORS)
def test_made_up_labels_are_such_as_the_loss_takes(name: str) -> None:
    task, outputs = find_task(name), torch.from_numpy(OUTPUTS)
    labels = task.example_labels(outputs)
    assert torch.isfinite(task.label_loss(TrainingConfig())(outputs, Batch({"input": outputs}, labels)))
    mixed = Batch({"input": outputs}, labels, partner_labels=labels.roll(1, 0), share=torch.linspace(0, 1, 40))
    assert task.mixed_labels(mixed, 3).shape == (40, 3)


@pytest.mark.parametrize("name", VECTORS)
def test_the_metric_of_the_labels_themselves_is_perfect_and_a_model_agrees_with_itself(name: str) -> None:
    task = find_task(name)
    answer = np.eye(3)[RAW[name]] if name == "classification" else RAW[name].astype(float)
    assert task.score(answer, task.collate(RAW[name])) == pytest.approx(1)
    assert task.score(OUTPUTS, task.collate(RAW[name])) < 0.95
    assert task.agreement(OUTPUTS, OUTPUTS) == pytest.approx(1)
    assert task.agreement(OUTPUTS, -OUTPUTS) < 0.5


@pytest.mark.parametrize("name", VECTORS)
def test_baked_scores_are_those_of_the_module_that_is_baked(name: str) -> None:
    task = find_task(name)
    scores, module = task.scores(OUTPUTS), task.score_module()
    assert task.has_scores == (module is not None)
    if module is None:
        np.testing.assert_array_equal(scores, OUTPUTS)
        return
    np.testing.assert_allclose(scores, module(torch.from_numpy(OUTPUTS)).numpy(), rtol=1e-5)
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("name", task_names())
def test_words_are_sentences_and_counts(name: str) -> None:
    task = find_task(name)
    for scores in (False, True):
        text = task.describe_answer(scores=scores)
        assert text[0].isupper()
        assert text.endswith(".")
    assert task.describe_outputs(3).startswith("3 ")
    assert task.metric_title
