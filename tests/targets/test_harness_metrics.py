import inspect

import check
import metrics
import numpy as np
import pytest
from kit import EngineError
from scipy import stats
from sklearn.metrics import average_precision_score, r2_score

from edgedistill.tasks.table import find_task

RNG = np.random.default_rng(0)
WANTED = RNG.normal(size=(400, 1, 3)).astype(np.float32)
GOT = WANTED + 0.5 * RNG.normal(size=WANTED.shape).astype(np.float32)


LABELS = (GOT[:, 0] + RNG.normal(size=(400, 3)) > 0).astype(np.float32)


@pytest.mark.parametrize("name", ["classification", "embedding", "multi-label", "regression"])
def test_the_device_computes_what_the_host_computes(name: str) -> None:
    task = find_task(name)
    labels = {"classification": WANTED[:, 0].argmax(1), "multi-label": LABELS}.get(name, WANTED[:, 0])
    host = task.agreement(GOT[:, 0], WANTED[:, 0])
    assert metrics.agreement(task.metric, GOT, WANTED, "kit") == pytest.approx(host)
    found, score = metrics.accuracy(task.metric, GOT, labels, "kit"), task.score(GOT[:, 0], labels)
    assert (found["metric"], found["n"]) == (task.metric, 400)
    assert found["value"] == pytest.approx(score)
    assert found["ci95"][0] < score < found["ci95"][1]
    assert metrics.accuracy(task.metric, GOT, labels, "kit") == found  # the resampling is seeded


def test_r2_and_its_interval_are_scikit_learns_and_scipys() -> None:
    got, wanted = GOT[:, 0, :1], WANTED[:, 0, :1]
    found = metrics.accuracy("r2", got, wanted, "kit")
    assert found["value"] == pytest.approx(r2_score(wanted, got))
    seed = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"  # before scipy 1.15
    resampled = stats.bootstrap(
        (wanted[:, 0], got[:, 0]), r2_score, paired=True, vectorized=False, n_resamples=1000, method="percentile",
        **{seed: np.random.default_rng(1)},
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose(found["ci95"], resampled, atol=0.01)


def test_one_value_is_not_an_agreement_by_argmax() -> None:
    noise = RNG.normal(size=(400, 1))
    assert (
        metrics.agreement("top1", noise, WANTED[:, :, 0], "kit") == 1.0
    )  # which is why values have metrics of their own
    assert metrics.agreement("r2", noise, WANTED[:, :, 0], "kit") < 0


def test_the_correlation_of_pairs_is_scipys_and_its_details_are_the_cosines_to_the_teacher() -> None:
    labels = np.stack([np.arange(400) // 2, np.repeat(RNG.integers(0, 6, 200), 2)], 1).astype(np.float32)
    labels[:2, 1], labels[-1, 0] = np.nan, 1000  # a pair without a score, and one of which a half is missing
    unit = GOT[:, 0] / np.linalg.norm(GOT[:, 0], axis=1, keepdims=True)
    cosines, scores = (unit[::2] * unit[1::2]).sum(1)[1:-1], labels[2:-2:2, 1]
    found = metrics.accuracy("spearman", GOT, labels, "kit")
    assert (found["metric"], found["n"]) == ("spearman", 198)
    assert found["value"] == pytest.approx(stats.spearmanr(cosines, scores).statistic, abs=1e-9)
    assert found["value"] == pytest.approx(find_task("sentence-embedding").score(GOT[:, 0], labels), abs=1e-9)
    assert found["ci95"][0] < found["value"] < found["ci95"][1]
    details = metrics.details("spearman", GOT, {"teacher": WANTED[:, 0]}, "kit")
    assert details["teacher_cosine"]["value"] == pytest.approx(find_task("embedding").score(GOT[:, 0], WANTED[:, 0]))
    assert metrics.details("spearman", GOT, {}, "kit") is None
    with pytest.raises(EngineError, match="they have shape"):
        metrics.accuracy("spearman", GOT, labels[:, 0], "kit")


def test_cosine_is_within_its_range_and_knows_one_sample_bounds_nothing() -> None:
    assert metrics.accuracy("cosine", WANTED, WANTED[:, 0], "kit")["ci95"] == pytest.approx((1, 1))
    assert metrics.accuracy("cosine", GOT[:1], WANTED[:1, 0], "kit")["ci95"] == (-1, 1)


def test_labels_of_another_shape_are_an_error() -> None:
    with pytest.raises(EngineError, match=r"kit: outputs of shape \(400, 3\) cannot be compared with .* \(400, 2\)"):
        metrics.accuracy("r2", GOT, WANTED[:, 0, :2], "kit")


# --- mean average precision ------------------------------------------------------------------------------------------


def scores_and_labels(n, decimals=6, share=0.3):
    rng = np.random.default_rng(n)
    labels = (rng.uniform(size=(n, 4)) < share).astype(np.int64)
    scores = np.round(labels + rng.normal(size=labels.shape), decimals).astype(np.float32)
    return scores, labels


@pytest.mark.parametrize("decimals", [6, 1, 0], ids=["no ties", "ties", "many ties"])
@pytest.mark.parametrize("n", [1, 2, 50, 400])
def test_mean_ap_is_scikit_learns(n, decimals):
    scores, labels = scores_and_labels(n, decimals, share=0.5)
    labels[0] = 1
    value = metrics.accuracy("mean_ap", scores, labels, "kit")["value"]
    assert value == pytest.approx(average_precision_score(labels, scores, average="macro"), abs=1e-12)


def test_labels_without_positives_are_left_out_of_mean_ap():
    scores, labels = scores_and_labels(60)
    labels[:, 1] = 0
    others = [0, 2, 3]
    alone = metrics.accuracy("mean_ap", scores[:, others], labels[:, others], "kit")["value"]
    assert metrics.accuracy("mean_ap", scores, labels, "kit")["value"] == alone
    with pytest.raises(EngineError, match="kit: mean_ap needs at least one label that is 1"):
        metrics.accuracy("mean_ap", scores, 0 * labels, "kit")
    with pytest.raises(EngineError, match="kit: mean_ap needs labels of 0 and 1"):
        metrics.accuracy("mean_ap", scores, labels + 1, "kit")


def test_the_interval_of_mean_ap_is_over_scikit_learns_score_of_each_resample():
    scores, labels = scores_and_labels(60, decimals=1)
    found = metrics.accuracy("mean_ap", scores, labels, "kit")
    resampled = [
        average_precision_score(labels[rows], scores[rows], average="macro") for rows in metrics._resamples(len(labels))
    ]
    np.testing.assert_allclose(found["ci95"], np.quantile(resampled, [0.025, 0.975]))
    assert found["ci95"][0] < found["value"] < found["ci95"][1]
    assert metrics.accuracy("mean_ap", scores, labels, "kit") == found


def test_a_rare_label_may_be_missing_from_a_resample():
    scores, labels = scores_and_labels(20)
    labels[:] = 0
    labels[3, 2] = 1  # a third of the resamples hold no positive at all
    found = metrics.accuracy("mean_ap", scores, labels, "kit")
    assert 0 < found["ci95"][0] <= found["value"] <= found["ci95"][1] <= 1


def test_scores_agree_when_they_are_on_the_same_side_of_the_threshold():
    got, wanted = np.array([[0.9, -0.2], [0.1, 0.6]]), np.array([[0.4, -0.1], [0.2, 0.9]])
    assert metrics.agreement("mean_ap", got, wanted, "kit") == 1.0
    assert metrics.agreement("mean_ap", got, wanted, "kit", 0.5) == 0.75


def test_fidelity_is_the_share_of_the_variance_that_is_met():
    assert metrics.fidelity(WANTED, WANTED) == 1.0
    assert metrics.fidelity(GOT, WANTED) == pytest.approx(r2_score(WANTED.ravel(), GOT.ravel()), abs=1e-6)
    masked = np.where(WANTED > 1, -np.inf, WANTED)
    assert metrics.fidelity(masked, masked) == 1.0


def test_agreement_with_outputs_that_are_all_the_same_says_nothing():
    constant = np.full((5, 2), 3.0, np.float32)
    noise = np.random.default_rng(0).uniform(0, 3e-7, (5, 2)).astype(np.float32)
    for same in (constant, noise):
        assert metrics.why_no_agreement(same) == "it is the same for all 5 requests"
    empty = np.zeros((5, 0, 4), np.float32)
    assert metrics.why_no_agreement(empty) == "it is empty for all 5 requests"
    assert metrics.reproduced(empty, 0.0) is None
    assert metrics.why_no_agreement(constant[:1]) == "there is only one request"
    assert metrics.why_no_agreement(constant + np.arange(5)[:, None]) is None
    assert metrics.why_no_agreement(np.full((5, 2), np.nan)) is None
    assert (metrics.reproduced(constant, 0.02), metrics.reproduced(constant, 0.04)) == (None, 0.0)


def test_parity_leaves_out_outputs_that_are_all_the_same():
    criteria = check.Criteria("kit", "top1", "recorded", None, 0.0, {})
    scores, still = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.ones((4, 1, 2), np.float32)
    found = check.parity_of({"a": scores, "b": still}, {"a": scores, "b": still}, criteria)
    assert (found["agreement"], found["outputs"]["b"]["agreement"]) == (1.0, None)
    assert found["reason"] == "output 'b': it is the same for all 4 requests"
    alone = check.parity_of({"b": still + np.float32(1e-3)}, {"b": still}, criteria)
    assert alone == {
        "max_abs_diff": pytest.approx(1e-3, rel=1e-3),
        "agreement": None,
        "reason": "it is the same for all 4 requests",
    }
    assert check.parity_of({"b": still + 1}, {"b": still}, criteria)["agreement"] == 0.0
