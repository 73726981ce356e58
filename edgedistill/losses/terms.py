"""Loss terms: pure functions of logits, values or features.

Every term is averaged over the batch, so its scale does not depend on the batch size; docstrings give the scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgedistill.config.training import DistillConfig


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)), averaged over the batch.

    Logits are (B, classes). Dividing by T scales gradients by 1 / T^2; the factor restores their scale: the
    weight of this term then has the same effect at every temperature (Hinton, Vinyals and Dean 2015, section 2).
    """
    student = functional.log_softmax(student_logits / temperature, 1)
    teacher = functional.log_softmax(teacher_logits / temperature, 1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def decoupled(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return T^2 * TCKD and T^2 * NCKD of each sample (B,): the two terms of decoupled distillation.

    TCKD is the divergence of (target, rest) probabilities, NCKD that of the other classes among themselves; kd is
    TCKD + NCKD times the teacher's probability of "rest", sample by sample (Zhao et al. 2022, equations 5 to 7). Logits
    are (B, classes), labels (B,).
    """
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter_(1, labels[:, None], value=False)

    def decouple(logits: Tensor) -> tuple[Tensor, Tensor]:
        softened = logits / temperature
        logs = functional.log_softmax(softened, 1)
        # log(1 - p) of the target is summed over the others, because 1 - p loses precision for p close to 1.
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
    samples (Huang et al. 2022, section 3, with beta = gamma = 1). Logits are (B, classes). The value is between 0 and
    4 * T^2. The factor is that of the authors; correlations do not shrink with T, so this term grows faster than kd.
    """
    student = functional.softmax(student_logits / temperature, 1)
    teacher = functional.softmax(teacher_logits / temperature, 1)
    inter, intra = (1 - correlation(student, teacher, axis).mean() for axis in (1, 0))
    return (inter + intra) * temperature**2


def correlation(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Return Pearson's correlation of a and b along an axis; 0 where either is constant."""
    return functional.cosine_similarity(a - a.mean(axis, keepdim=True), b - b.mean(axis, keepdim=True), axis, SHORTEST)


def standardize(logits: Tensor) -> Tensor:
    """Return logits (B, classes) minus their mean, divided by their standard deviation, per sample and before any temperature.

    The student then only has to match the relations between the teacher's logits, not their range (Sun et al. 2024). The
    standard deviation divides by classes - 1, as in the authors' code.
    """
    # The minimum bounds the gradient. The authors add 1e-7, with which a student whose head starts at zero diverges.
    return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True).clamp_min(1e-3)


def ls(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return kd of standardized logits (B, classes), in the scale of kd (Sun et al. 2024)."""
    return kd(standardize(student_logits), standardize(teacher_logits), temperature)


def mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the mean squared difference of logits (B, classes), over samples and classes (Ba and Caruana 2014).

    For logits with mean 0 per sample, half of this value is the limit of kd for large T (Hinton et al. 2015, equation 4).
    """
    return functional.mse_loss(student_logits, teacher_logits)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - the cosine similarity of vectors (B, D), averaged over the batch; the value is between 0 and 2.

    The length of the student's vectors is not constrained. Lengths below 0.0001 count as 0.0001, which bounds the gradient.
    """
    return (1 - functional.cosine_similarity(student, teacher, 1, SHORTEST)).mean()


def hint(student: Tensor, teacher: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return the mean squared difference over all elements of two features (B, C, ...) with the same number of channels.

    Sizes are matched by `same_positions`. FitNets (Romero et al. 2015, equation 3) take half the sum; the mean does not
    depend on the size of the layer. `kept` (B, T) are the positions that count, True for tokens and False for padding.
    """
    ours, theirs = same_positions(student, teacher)
    if kept is None:
        return functional.mse_loss(ours, theirs)
    return ((ours - theirs).square().mean(1) * kept).sum() / kept.sum()


def at(student: Tensor, teacher: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return the squared distance of two attention maps, averaged over the batch; the value is between 0 and 2.

    A map is the sum of squares over channels of (B, C, ...), matched by `same_positions` and scaled to length 1 per
    sample (Zagoruyko and Komodakis 2017, equation 2). The authors' code has the mean over positions in place of the
    sum, with a weight of 1000: that is 1000 / positions here, 16 for maps of 8x8. `kept` is as for `hint`.
    """
    maps = same_positions(student.square().sum(1, keepdim=True), teacher.square().sum(1, keepdim=True))
    counted = maps if kept is None else tuple(attention * kept[:, None] for attention in maps)
    ours, theirs = (functional.normalize(attention.flatten(1), dim=1) for attention in counted)
    return (ours - theirs).square().sum(1).mean()


def rkd(student: Tensor, teacher: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return 25 * the Huber loss of distances + 50 * that of angles among the samples of a batch.

    Features (B, C, ...) are averaged over positions; their channels may differ. Distances are relative to their mean
    over pairs of different samples; angles are the cosines at each sample between pairs of other samples. Both losses
    are means over all pairs or triples, as in the authors' code (Park et al. 2019, equations 4 to 9). Triples need memory
    for B^3 numbers. `kept` is as for `hint`.
    """
    ours, theirs = (_averaged(x, kept) for x in (student, teacher))
    distances = functional.smooth_l1_loss(relative_distances(ours), relative_distances(theirs))
    return 25 * distances + 50 * functional.smooth_l1_loss(angles(ours), angles(theirs))


def _averaged(x: Tensor, kept: Tensor | None) -> Tensor:
    """Return the mean (B, C) over the positions of a feature (B, C, ...)."""
    if x.ndim == 2:
        return x
    return x.flatten(2).mean(2) if kept is None else (x * kept[:, None]).sum(2) / kept.sum(1, keepdim=True)


def relative_distances(x: Tensor) -> Tensor:
    """Return the distances (B, B) between the rows of x (B, C), over their mean off the diagonal."""
    # The default computes |a|^2 + |b|^2 - 2 a b, which loses precision for similar rows.
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / max(1, len(x) * (len(x) - 1))
    return distances / mean.clamp_min(1e-12)


def angles(x: Tensor) -> Tensor:
    """Return for rows j of x (B, C) the cosines (B, B, B) between x_i - x_j and x_k - x_j; 0 if either is 0."""
    edges = x[None] - x[:, None]
    lengths = edges.norm(dim=2, keepdim=True)
    # Division by infinity gives 0 and no gradient for equal rows; with a small divisor their gradient would dominate.
    unit = edges / torch.where(lengths > 0, lengths, torch.inf)
    return unit @ unit.transpose(1, 2)


def cwd(student: Tensor, teacher: Tensor, temperature: float, kept: Tensor | None = None) -> Tensor:
    """Return T^2 / C * the sum over channels of KL(teacher || student), averaged over the batch (Shu et al. 2021, equation 4).

    Each channel of (B, C, ...) is a distribution over its positions: the softmax of its values over T. Sizes are matched by
    `same_positions`. `kept` is as for `hint`.
    """
    count = student.shape[0] * student.shape[1]
    pair = (x.flatten(2) / temperature for x in same_positions(student, teacher))
    padding = None if kept is None else ~kept[:, None]
    ours, theirs = (_log_softmax(x, padding) for x in pair)
    return functional.kl_div(ours, theirs, reduction="sum", log_target=True) * temperature**2 / count


def relations(student: Tensor, teacher: Tensor, heads: int, kept: Tensor | None = None) -> Tensor:
    """Return KL(teacher || student) of the relations among positions, averaged over relation heads, positions and the batch.

    The channels of (B, C, ...) are split among `heads`, whatever their number in student and teacher. A relation is the softmax
    over all positions of their scaled dot products with one position: of queries, keys or values, these are the relations of
    MiniLMv2 (Wang et al. 2021, equations 6 to 10), and those of values the value relation of MiniLM (Wang et al. 2020, equation
    8). Sizes are matched by `same_positions`. `kept` is as for `hint`.
    """
    pair = (x.reshape(len(x), heads, x.shape[1] // heads, -1) for x in same_positions(student, teacher))
    scores = (x.transpose(2, 3) @ x / x.shape[2] ** 0.5 for x in pair)
    padding = None if kept is None else ~kept[:, None, None]
    ours, theirs = (_log_softmax(x, padding) for x in scores)
    divergence = (theirs.exp() * (theirs - ours)).sum(3).mean(1)
    if kept is None:
        return divergence.mean()
    return ((divergence * kept).sum(1) / kept.sum(1)).mean()


def _log_softmax(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return the logarithm of the softmax over the last axis, in which padding has a weight of 0."""
    # The logarithm of 0 would be minus infinity, whose difference in a divergence is not a number.
    return functional.log_softmax(x if padding is None else x.masked_fill(padding, -1e4), -1)


def same_positions(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool two features (B, C, ...) to the smaller size of each axis."""
    if student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    pool = POOL_BY_AXES[len(size)]
    return pool(student, size), pool(teacher, size)


def binary_kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 * the divergence of each label's probability from the teacher's, averaged over samples and labels.

    Logits (B, labels) of independent labels are divided by T before the sigmoid; the factor T^2 is explained in `kd`.
    """
    student, teacher = student_logits / temperature, teacher_logits / temperature
    soft = teacher.sigmoid()
    cross_entropy = functional.binary_cross_entropy_with_logits(student, soft)
    entropy = functional.binary_cross_entropy_with_logits(teacher, soft)
    return (cross_entropy - entropy) * temperature**2


def group(logits: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Reduce logits (B, classes) to (B, K + 1): K classes (B, K), and one logit for all others at a temperature.

    The sum runs over the others, because 1 - the sum of the K would lose precision.
    """
    rest = (logits / temperature).scatter(1, classes, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([logits.gather(1, classes), temperature * rest], 1)


SHORTEST: Final = 1e-4
"""The smallest length in a cosine: with the usual 1e-8, a student whose head starts at zero diverges."""
POOL_BY_AXES: Final[dict[int, Callable[..., Tensor]]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}
FeatureTerm = Callable[[Tensor, Tensor, DistillConfig, "Tensor | None"], Tensor]
"""A function from the student's and the teacher's feature (B, C, ...), the plan and the positions that count, or None, to a scalar."""
FEATURE_TERMS: Final[dict[str, FeatureTerm]] = {
    "hint": lambda student, teacher, _, kept: hint(student, teacher, kept),
    "at": lambda student, teacher, _, kept: at(student, teacher, kept),
    "rkd": lambda student, teacher, _, kept: rkd(student, teacher, kept),
    "cwd-features": lambda student, teacher, plan, kept: cwd(student, teacher, plan.temperature, kept),
    "relations": lambda student, teacher, plan, kept: relations(student, teacher, plan.relation_heads, kept),
}
