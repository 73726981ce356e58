"""Losses: pure functions of logits or features, and how a configuration composes them.

Every term is averaged over the batch, so that its scale does not depend on the batch size; each says its own scale.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgedistill.config.training import DistillConfig, TrainingConfig
from edgedistill.distill.features import Answer, FeatureTeacher
from edgedistill.distill.top_k import group
from edgedistill.distill.training import Batch, Loss
from edgedistill.errors import ConfigError
from edgedistill.runtime.user_code import is_function, resolve_function

LogitTerm = Callable[[Tensor, Batch], Tensor]
"""From the student's logits (B, classes) and their batch, which has the teacher's, to a scalar."""


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)), averaged over the batch.

    Logits are (B, classes). Softening by T shrinks gradients by 1 / T^2; the factor restores their scale, so that the
    weight of this term means the same at every temperature (Hinton, Vinyals and Dean 2015, section 2).
    """
    student = functional.log_softmax(student_logits / temperature, 1)
    teacher = functional.log_softmax(teacher_logits / temperature, 1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def dkd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """Return T^2 * (alpha * TCKD + beta * NCKD), averaged over the batch: decoupled distillation.

    TCKD is the divergence of (target, rest) probabilities, NCKD that of the other classes among themselves; kd is
    alpha = 1 with beta = the teacher's probability of "rest", sample by sample (Zhao et al. 2022, equations 5 to 7).
    Logits are (B, classes), labels (B,). The scale is kd's, but for beta, which the authors set between 0.5 and 10.
    """
    target, non_target = decoupled(student_logits, teacher_logits, labels, temperature)
    return (alpha * target + beta * non_target).mean()


def decoupled(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return T^2 * TCKD and T^2 * NCKD of each sample (B,), of which `dkd` is made."""
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter_(1, labels[:, None], value=False)

    def decouple(logits: Tensor) -> tuple[Tensor, Tensor]:
        softened = logits / temperature
        logs = functional.log_softmax(softened, 1)
        # log(1 - p) of the target is summed from the others, as 1 - p cancels for a teacher that is sure.
        rest = logs[others].view(len(logs), -1)
        binary = torch.stack((logs[~others], rest.logsumexp(1)), 1)
        return binary, functional.log_softmax(rest, 1)

    student, student_rest = decouple(student_logits)
    teacher, teacher_rest = decouple(teacher_logits)
    target, non_target = (
        functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(1) * temperature**2
        for ours, theirs in ((student, teacher), (student_rest, teacher_rest))
    )
    return target, non_target


def dist(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 * (inter + intra), each 1 - Pearson's correlation of softened probabilities.

    inter correlates the classes of each sample, intra the samples of each class, so it needs a batch of several
    samples (Huang et al. 2022, section 3, with beta = gamma = 1). Logits are (B, classes). The value lies between 0 and
    4 * T^2: the factor is the authors', but a correlation does not shrink as T grows, so this term outgrows kd.
    """
    student = functional.softmax(student_logits / temperature, 1)
    teacher = functional.softmax(teacher_logits / temperature, 1)
    inter, intra = (1 - correlation(student, teacher, axis).mean() for axis in (1, 0))
    return (inter + intra) * temperature**2


def correlation(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Return Pearson's correlation of a and b along an axis; 0 where either is constant."""
    return functional.cosine_similarity(a - a.mean(axis, keepdim=True), b - b.mean(axis, keepdim=True), axis, SHORTEST)


def standardize(logits: Tensor) -> Tensor:
    """Return each sample's logits (B, classes) less their mean, over their standard deviation, before any temperature.

    The student then need not match the range of the teacher's logits, only their relations (Sun et al. 2024). The
    deviation divides by classes - 1, as in the authors' code, with which their figures were made.
    """
    # The least deviation bounds the gradient; the authors add 1e-7, which throws a student whose head starts at zero.
    return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True).clamp_min(1e-3)


def ls(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return kd of standardized logits (B, classes), in the scale of kd (Sun et al. 2024)."""
    return kd(standardize(student_logits), standardize(teacher_logits), temperature)


def mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the mean squared difference of logits (B, classes), over samples and classes (Ba and Caruana 2014).

    With each sample's mean taken off, half of it is what kd tends to as T grows (Hinton et al. 2015, equation 4).
    """
    return functional.mse_loss(student_logits, teacher_logits)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - the cosine similarity of vectors (B, D), averaged over the batch; it lies between 0 and 2.

    The student's length is free. A vector shorter than 0.0001 is taken to be as long, which bounds the gradient.
    """
    return (1 - functional.cosine_similarity(student, teacher, 1, SHORTEST)).mean()


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two features (B, C, ...) of as many channels, over all their elements.

    Sizes are matched by `same_positions`. FitNets (Romero et al. 2015, equation 3) take half the sum; the mean does not
    depend on the size of the layer.
    """
    return functional.mse_loss(*same_positions(student, teacher))


def at(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance of two attention maps, averaged over the batch; it lies between 0 and 2.

    A map is the sum of squares over channels of (B, C, ...), matched by `same_positions` and scaled to length 1 per
    sample (Zagoruyko and Komodakis 2017, equation 2). The authors' code has the mean over positions in place of the
    sum, with a weight of 1000: that is 1000 / positions here, 16 for maps of 8x8.
    """
    maps = same_positions(student.square().sum(1, keepdim=True), teacher.square().sum(1, keepdim=True))
    ours, theirs = (functional.normalize(found.flatten(1), dim=1) for found in maps)
    return (ours - theirs).square().sum(1).mean()


def rkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 25 * the Huber loss of distances + 50 * that of angles among the samples of a batch.

    Features (B, C, ...) are averaged over positions; their channels may differ. Distances are relative to their mean
    over pairs of different samples; angles are the cosines at each sample between each two others. Both losses are
    means over all pairs and triples, as in the authors' code (Park et al. 2019, equations 4 to 9). Triples take memory
    of B^3 numbers.
    """
    ours, theirs = (x.flatten(2).mean(2) if x.ndim > 2 else x for x in (student, teacher))
    distances = functional.smooth_l1_loss(relative_distances(ours), relative_distances(theirs))
    return 25 * distances + 50 * functional.smooth_l1_loss(angles(ours), angles(theirs))


def relative_distances(x: Tensor) -> Tensor:
    """Return the distances (B, B) between the rows of x (B, C), over their mean off the diagonal."""
    # The default computes |a|^2 + |b|^2 - 2 a b, which cancels for rows that are close.
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / max(1, len(x) * (len(x) - 1))
    return distances / mean.clamp_min(1e-12)


def angles(x: Tensor) -> Tensor:
    """Return for rows j of x (B, C) the cosines (B, B, B) between x_i - x_j and x_k - x_j; 0 where either is nothing."""
    edges = x[None] - x[:, None]
    lengths = edges.norm(dim=2, keepdim=True)
    # Over infinity, equal rows give 0 and no gradient; over a small number, their gradient would swamp all others.
    unit = edges / torch.where(lengths > 0, lengths, torch.inf)
    return unit @ unit.transpose(1, 2)


def same_positions(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool two features (B, C, ...) to the smaller of their sizes, axis by axis."""
    if student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    pool = POOL_BY_AXES[len(size)]
    return pool(student, size), pool(teacher, size)


SHORTEST: Final = 1e-4
"""The least length in a cosine: at the usual 1e-8, the gradient would throw a student whose head starts at zero."""
POOL_BY_AXES: Final[dict[int, Callable[..., Tensor]]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}
LOGIT_TERMS: Final[dict[str, Callable[[Tensor, Tensor, Batch, DistillConfig], Tensor]]] = {
    "kd": lambda student, teacher, _, plan: kd(student, teacher, plan.temperature),
    "dkd": lambda student, teacher, batch, plan: over_labels(
        batch, lambda labels: dkd_of_each(student, teacher, labels, plan)
    ),
    "dist": lambda student, teacher, _, plan: dist(student, teacher, plan.temperature),
    "ls": lambda student, teacher, _, plan: ls(student, teacher, plan.temperature),
    "mse": lambda student, teacher, _batch, _plan: mse(student, teacher),
    "cosine": lambda student, teacher, _batch, _plan: cosine(student, teacher),
}
FEATURE_TERMS: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {"hint": hint, "at": at, "rkd": rkd}


def label_loss(plan: TrainingConfig) -> Loss:
    """Return the cross-entropy with class numbers (B,), smoothed as the plan says, or the loss with values (B, D).

    That is mse, or cosine where the plan's own loss is. With mixup, an input has two classes, each with its share, and
    the mixture of two values.
    """
    on_values = cosine if isinstance(plan, DistillConfig) and plan.loss == "cosine" else mse

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        if batch.labels.is_floating_point():
            return on_values(logits, mixed_labels(batch))
        smoothing = plan.label_smoothing
        return over_labels(
            batch,
            lambda labels: functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none"),
        )

    return loss


def over_labels(batch: Batch, term: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the batch's mean of a term (B,) of class numbers (B,), where inputs are mixed by the shares of their two."""
    own = term(batch.labels)
    if batch.share is None or batch.partner_labels is None:
        return own.mean()
    return (batch.share * own + (1 - batch.share) * term(batch.partner_labels)).mean()


def mixed_labels(batch: Batch, classes: int = 0) -> Tensor:
    """Return the labels as they are or, where inputs are mixed, values (B, D) or the shares (B, classes) of classes."""
    if batch.share is None or batch.partner_labels is None:
        return batch.labels
    own, partner = batch.labels, batch.partner_labels
    if not own.is_floating_point():
        own, partner = (functional.one_hot(labels, classes).to(batch.share) for labels in (own, partner))
    return batch.share[:, None] * own + (1 - batch.share[:, None]) * partner


def distillation_loss(plan: DistillConfig, folder: Path = Path()) -> Loss:
    """Return hard_weight * cross-entropy + (1 - hard_weight) * the term on logits that the plan names.

    A feature loss has kd there; its feature term is added by `feature_loss`. A loss of the user's is looked for beside
    the configuration, in `folder`. Takes the student's logits (B, classes) in float32.
    """
    hard, soft = plan.hard_weight, 1 - plan.hard_weight
    on_labels, on_teacher = label_loss(plan), logit_term(plan, folder)

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        distilled = soft * on_teacher(logits, batch)
        return distilled + hard * on_labels(logits, batch) if hard else distilled

    return loss


def feature_loss(plan: DistillConfig, teacher: FeatureTeacher) -> Loss:
    """Return `distillation_loss` + feature_weight * the sum over the pairs of layers of the feature term.

    Takes the student's `Answer`; the teacher is asked here, for logits and features at once.
    """
    on_logits, term, weight = distillation_loss(plan), FEATURE_TERMS[plan.loss], plan.feature_scale

    def loss(answer: Answer, batch: Batch) -> Tensor:
        theirs = teacher(batch.inputs)
        pairs = zip(answer.features, theirs.features, strict=True)
        on_features = torch.stack([term(student, teacher) for student, teacher in pairs]).sum()
        return on_logits(answer.logits, batch._replace(teacher_logits=theirs.logits)) + weight * on_features

    return loss


def logit_term(plan: DistillConfig, folder: Path) -> LogitTerm:
    """Return the term on logits that a plan names, with its temperature and standardization."""
    if is_function(plan.loss):
        return own_term(plan.loss, folder)
    term = LOGIT_TERMS["kd" if plan.uses_features else plan.loss]
    prepare = standardize if plan.standardize else _as_it_is

    def on_teacher(student: Tensor, batch: Batch) -> Tensor:
        assert batch.teacher_logits is not None
        if batch.teacher_classes is not None:
            student = group(student, batch.teacher_classes, plan.temperature)
        return term(prepare(student), prepare(batch.teacher_logits), batch, plan)

    return on_teacher


def dkd_of_each(student: Tensor, teacher: Tensor, labels: Tensor, plan: DistillConfig) -> Tensor:
    """Return `dkd` of each sample (B,) as the plan weighs it."""
    target, non_target = decoupled(student, teacher, labels, plan.temperature)
    return plan.dkd_alpha * target + plan.dkd_beta * non_target


def own_term(spec: str, folder: Path) -> LogitTerm:
    """Return the user's function(student_logits, teacher_logits, labels), held to a finite scalar with a gradient.

    With mixup, the labels of classes are their shares (B, classes). Raises ConfigError, here or when it is called, that
    names the function.
    """
    function = resolve_function(spec, folder)
    if not callable(function):
        raise ConfigError(f"distill.loss: '{spec}' is no function but {type(function).__name__}")

    def term(student: Tensor, batch: Batch) -> Tensor:
        try:
            value = function(student, batch.teacher_logits, mixed_labels(batch, student.shape[1]))
        except Exception as error:  # another's code may raise anything
            reason = next(iter(str(error).splitlines()), "")
            raise ConfigError(f"distill.loss: '{spec}' raises {type(error).__name__}: {reason}") from error
        _check_own(spec, value, student)
        return value

    return term


def _check_own(spec: str, value: object, student: Tensor) -> None:
    if not isinstance(value, Tensor) or value.ndim:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"distill.loss: '{spec}' gives {found}; expected a scalar tensor, for example loss.mean()")
    if student.requires_grad and not value.requires_grad:
        raise ConfigError(f"distill.loss: '{spec}' has no gradient; compute it from student_logits with torch alone")
    if not value.isfinite() and student.isfinite().all():  # else it is the training that diverges, as `fit` says
        raise ConfigError(f"distill.loss: '{spec}' gives {value.item()} for finite logits")


def _as_it_is(logits: Tensor) -> Tensor:
    return logits
