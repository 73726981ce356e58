import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn import functional

from edgedistill.losses.assignment import Targets, assign
from edgedistill.losses.batch import Batch
from edgedistill.losses.cells import BINS, cells_of, decode_boxes, generalised_overlaps, overlaps
from edgedistill.losses.detection import (
    LEAST_SCORE,
    box_kd,
    class_kd,
    detection_loss,
    distances,
    distribution_focal,
    on_teacher,
    quality_focal,
)

HEIGHT, WIDTH, CLASSES = 96, 128, 3
CELLS = cells_of(HEIGHT, WIDTH)
COUNT = len(CELLS.strides)


def labels_of(*rows):
    """Return labels (1, M, 7) of rows (class, x1, y1, x2, y2, crowd), with an unused row."""
    filled = [[*row[:5], 0.0, row[5] if len(row) > 5 else 0.0] for row in rows]
    return torch.tensor([[*filled, [-1.0] + 6 * [0.0]]])


def outputs(seed=0, batch=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, COUNT, CLASSES + 4 * BINS, generator=generator)


def decoded(values):
    return values[..., :CLASSES].sigmoid(), decode_boxes(values[..., CLASSES:], CELLS)


def iou(a, b):
    sides = [min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])]
    shared = max(sides[0], 0) * max(sides[1], 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def plain_quality(scores, boxes, rows):
    """Return the quality and the row of each cell, by the definition of TOOD: box by box and cell by cell."""
    claims = {}
    for number, (kind, *box) in enumerate(rows):
        aligned = {}
        for cell in range(COUNT):
            (x, y), stride = CELLS.centres[cell].tolist(), CELLS.strides[cell].item()
            middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            wide, high = max(box[2] - box[0], stride), max(box[3] - box[1], stride)
            if abs(x - middle[0]) > wide / 2 or abs(y - middle[1]) > high / 2:
                continue
            if stride < 32 and max(x - box[0], y - box[1], box[2] - x, box[3] - y) > 7 * stride:
                continue
            overlap = iou(box, boxes[cell].tolist())
            aligned[cell] = (scores[cell, int(kind)].item() * overlap**6, overlap)
        for cell in sorted(aligned, key=lambda one: -aligned[one][0])[:13]:
            if aligned[cell][0] > 0:
                claims.setdefault(cell, []).append((aligned[cell][1], number, aligned[cell][0]))
    owned = {cell: max(found) for cell, found in claims.items()}
    quality = {}
    for cell, (_, number, alignment) in owned.items():
        mine = [one for one in owned.values() if one[1] == number]
        quality[cell] = alignment / max(one[2] for one in mine) * max(one[0] for one in mine)
    return quality, {cell: one[1] for cell, one in owned.items()}


def test_boxes_are_assigned_by_their_alignment():
    rows = [(0, 8, 8, 60, 70), (2, 30, 20, 90, 90), (1, 100, 40, 108, 47), (0, 0, 0, 127, 95)]
    scores, boxes = decoded(outputs())
    targets = assign(scores, boxes, labels_of(*rows), CELLS)
    quality, owner = plain_quality(scores[0], boxes[0], rows)
    assert {cell for cell in range(COUNT) if targets.quality[0, cell] > 0} == set(quality)
    for cell, value in quality.items():
        kind, *box = rows[owner[cell]]
        assert targets.quality[0, cell].item() == pytest.approx(value, rel=1e-4)
        assert targets.boxes[0, cell].tolist() == pytest.approx(box)
        assert targets.scores[0, cell].nonzero().tolist() == [[kind]]
        assert targets.scores[0, cell, kind] == targets.quality[0, cell]
    assert targets.counts.all()


def test_every_box_has_a_cell_however_small_or_large():
    for box in ((50, 50, 51, 51), (0, 0, 128, 96), (127, 95, 128, 96)):
        targets = assign(*decoded(torch.zeros(1, COUNT, CLASSES + 4 * BINS)), labels_of((1, *box)), CELLS)
        assert targets.quality.amax() == pytest.approx(iou(box, targets_box(targets)), rel=1e-4)


def targets_box(targets):
    """Return the box that an untrained model gives at the best cell: 3.5 strides to each side."""
    cell = targets.quality[0].argmax()
    x, y = CELLS.centres[cell].tolist()
    side = 3.5 * CELLS.strides[cell].item()
    return x - side, y - side, x + side, y + side


def test_pictures_of_a_batch_do_not_mix():
    one, two = labels_of((0, 8, 8, 60, 70)), labels_of((2, 70, 30, 100, 60))
    values = outputs(batch=2)
    both = assign(*decoded(values), torch.cat([one, two]), CELLS)
    for place, labels in enumerate((one, two)):
        alone = assign(*decoded(values[place : place + 1]), labels, CELLS)
        for ours, theirs in zip(both, alone, strict=True):
            torch.testing.assert_close(ours[place], theirs[0])


def test_nothing_is_learned_where_a_crowd_of_the_class_is():
    plain = labels_of((1, 8, 8, 40, 40))
    crowd = labels_of((1, 8, 8, 40, 40), (2, 0, 0, 64, 96, 1))
    targets = assign(*decoded(outputs()), crowd, CELLS)
    covered = (CELLS.centres[:, 0] < 64) & (CELLS.centres[:, 1] < 96)
    assert torch.equal(targets.counts[0, :, 2], ~covered)
    assert targets.counts[0, :, :2].all()
    torch.testing.assert_close(targets.scores, assign(*decoded(outputs()), plain, CELLS).scores)
    values = outputs().requires_grad_()
    detection_loss(values, crowd, (HEIGHT, WIDTH), CLASSES).backward()
    assert not values.grad[0, covered, 2].any()
    assert values.grad[0, ~covered, 2].all()


def test_generalised_overlap_is_the_papers():
    ours = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 2, 2]])
    theirs = torch.tensor([[1.0, 1, 3, 3], [2, 0, 3, 1], [0, 0, 2, 2]])
    assert overlaps(ours, theirs).tolist() == pytest.approx([1 / 7, 0, 1])
    assert generalised_overlaps(ours, theirs).tolist() == pytest.approx([1 / 7 - 2 / 9, -1 / 3, 1])


def test_quality_focal_loss_is_the_papers():
    logits = torch.tensor([[[-1.0, 2.0, 0.5]]])
    scores = torch.tensor([[[0.0, 0.7, 0.0]]])
    counts = torch.tensor([[[True, True, False]]])
    found = quality_focal(logits, Targets(torch.zeros(1, 1, 4), scores.amax(2), scores, counts))
    wanted = []
    for logit, y in zip(logits.flatten().tolist(), scores.flatten().tolist(), strict=True):
        sigma = 1 / (1 + math.exp(-logit))
        wanted.append(-(abs(y - sigma) ** 2) * ((1 - y) * math.log(1 - sigma) + y * math.log(sigma)))
    assert found.flatten().tolist() == pytest.approx([*wanted[:2], 0], rel=1e-5)


def test_distribution_focal_loss_is_the_papers():
    logits = torch.randn(1, 4 * BINS)
    steps = torch.tensor([[0.0, 2.25, 6.5, 7.0]])
    shares = logits.view(4, BINS).softmax(1).tolist()
    wanted = [
        -math.log(shares[0][0]),
        -0.75 * math.log(shares[1][2]) - 0.25 * math.log(shares[1][3]),
        -0.5 * math.log(shares[2][6]) - 0.5 * math.log(shares[2][7]),
        -math.log(shares[3][7]),
    ]
    assert distribution_focal(logits, steps).item() == pytest.approx(sum(wanted) / 4, rel=1e-5)


def test_distances_are_in_strides_and_stay_within_the_bins():
    cell = 20  # at (36, 12), stride 8
    boxes = torch.zeros(1, COUNT, 4)
    boxes[0, cell] = torch.tensor([20.0, 12, 128, 30])
    targets = Targets(boxes, torch.ones(1, COUNT), torch.ones(1, COUNT, 1), torch.ones(1, COUNT, 1, dtype=torch.bool))
    assert CELLS.centres[cell].tolist() == [36, 12]
    assert distances(targets, CELLS)[0, cell].tolist() == [2, 0, 7, 2.25]


def test_the_loss_teaches_a_picture_by_heart():
    labels = labels_of((0, 8, 8, 60, 70), (2, 70, 30, 100, 60))
    values = torch.zeros(1, COUNT, CLASSES + 4 * BINS)
    values[..., :CLASSES] = -4.6
    values.requires_grad_()
    optimizer = torch.optim.Adam([values], lr=0.3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = detection_loss(values, labels, (HEIGHT, WIDTH), CLASSES)
        loss.backward()
        optimizer.step()
    scores, boxes = decoded(values.detach())
    for kind, *box in ((0, 8, 8, 60, 70), (2, 70, 30, 100, 60)):
        best = scores[0, :, kind].argmax()
        assert scores[0, best, kind] > 0.8
        assert iou(box, boxes[0, best].tolist()) > 0.9
    assert (scores[0, :, 1] < 0.05).all()


def test_a_picture_without_boxes_teaches_background():
    values = outputs().requires_grad_()
    loss = detection_loss(values, torch.tensor([[[-1.0] + 6 * [0.0]]]), (HEIGHT, WIDTH), CLASSES)
    logits = values.detach()[..., :CLASSES]
    wanted = (logits.sigmoid() ** 2 * functional.softplus(logits)).sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.backward()
    assert not values.grad[..., CLASSES:].any()


def test_class_distillation_is_a_weighted_divergence_of_scores():
    student, teacher = outputs(1), outputs(2)
    ours, theirs = (x[..., :CLASSES] for x in (student, teacher))
    divergence = kl_divergence(Bernoulli(logits=theirs), Bernoulli(logits=ours))
    weight = (theirs.sigmoid() - ours.sigmoid()).abs()
    wanted = (weight * divergence).sum() / theirs.sigmoid().amax(2).sum()
    assert class_kd(student, teacher, CLASSES).item() == pytest.approx(wanted.item(), rel=1e-4)
    assert class_kd(teacher, teacher, CLASSES).item() == 0


def test_localisation_distillation_is_a_divergence_of_distributions():
    student, teacher, heat = outputs(1), outputs(2), 3.0
    shares = [Categorical(logits=x[..., CLASSES:].view(1, COUNT, 4, BINS) / heat) for x in (teacher, student)]
    weight = teacher[..., :CLASSES].sigmoid().amax(2)
    wanted = heat**2 * (weight * kl_divergence(*shares).mean(2)).sum() / weight.sum()
    assert box_kd(student, teacher, CLASSES, heat).item() == pytest.approx(wanted.item(), rel=1e-4)
    assert box_kd(teacher, teacher, CLASSES, heat).item() == pytest.approx(0, abs=1e-6)


def found_by_teacher(*rows):
    """Return detections (1, K, 6) of rows (class, score, x1, y1, x2, y2), with an unused row."""
    return torch.tensor([[*[list(map(float, row)) for row in rows], [-1.0] + 5 * [0.0]]])


def on_found(values, found):
    return on_teacher(4.0)(values, Batch({"input": torch.zeros(1, 3, HEIGHT, WIDTH)}, torch.zeros(1, 1, 7), found))


def test_a_certain_detection_is_learned_as_a_label():
    values, boxes = outputs(), ((1, 10, 12, 60, 50), (2, 70, 20, 120, 90))
    certain = found_by_teacher(*((kind, 1.0, *box) for kind, *box in boxes))
    wanted = detection_loss(values, labels_of(*boxes), (HEIGHT, WIDTH), CLASSES)
    assert on_found(values, certain).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_the_target_of_a_cell_is_the_quality_of_its_box_times_the_teacher_s_score():
    scores, boxes = decoded(outputs())
    labels, weights = labels_of((1, 10, 12, 60, 50), (2, 70, 20, 120, 90)), torch.tensor([[0.4, 0.7, 0.0]])
    plain, weighted = assign(scores, boxes, labels, CELLS), assign(scores, boxes, labels, CELLS, weights)
    for kind, weight in ((1, 0.4), (2, 0.7)):
        torch.testing.assert_close(weighted.scores[..., kind], weight * plain.scores[..., kind])
    assert weighted.quality.max() <= 0.7


def test_a_cell_of_two_boxes_learns_the_one_of_the_higher_score():
    scores, boxes = decoded(outputs())
    twice = labels_of((1, 10, 12, 60, 50), (2, 10, 12, 60, 50))
    targets = assign(scores, boxes, twice, CELLS, torch.tensor([[0.2, 0.9, 0.0]]))
    both = (assign(scores, boxes, twice, CELLS).quality > 0) & (targets.scores[..., 2] > 0)
    assert both.any()
    assert (targets.scores[both][:, 1] == 0).all()


def test_detections_of_low_scores_and_none_at_all_are_background():
    values = outputs()
    low = on_found(values, found_by_teacher((1, LEAST_SCORE / 2, 10, 12, 60, 50)))
    background = detection_loss(values, labels_of(), (HEIGHT, WIDTH), CLASSES)
    assert low.item() == pytest.approx(background.item(), rel=1e-6)
    certain = found_by_teacher((1, 0.9, 10, 12, 60, 50), (1, LEAST_SCORE / 2, 70, 20, 120, 90))
    assert on_found(values, certain).item() == pytest.approx(on_found(values, certain[:, :1]).item(), rel=1e-6)
