import metrics
import numpy as np
import pytest
from kit import EngineError
from scipy import stats
from sklearn.metrics import r2_score

from edgedistill.tasks.tasks import TASKS, agreement_of

RNG = np.random.default_rng(0)
WANTED = RNG.normal(size=(400, 1, 3)).astype(np.float32)
GOT = WANTED + 0.5 * RNG.normal(size=WANTED.shape).astype(np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_the_device_computes_what_the_host_computes(task: str) -> None:
    metric = TASKS[task].metric
    host = agreement_of(task, GOT[:, 0], WANTED[:, 0])
    assert metrics.agreement(metric, GOT, WANTED, "kit") == pytest.approx(host)
    labels = WANTED[:, 0].argmax(1) if task == "classification" else WANTED[:, 0]
    found = metrics.accuracy(metric, GOT, labels, "kit")
    assert (found["metric"], found["n"]) == (metric, 400)
    assert found["value"] == pytest.approx(host)
    assert found["ci95"][0] < host < found["ci95"][1]
    assert metrics.accuracy(metric, GOT, labels, "kit") == found  # the resampling is seeded


def test_r2_and_its_interval_are_scikit_learns_and_scipys() -> None:
    got, wanted = GOT[:, 0, :1], WANTED[:, 0, :1]
    found = metrics.accuracy("r2", got, wanted, "kit")
    assert found["value"] == pytest.approx(r2_score(wanted, got))
    resampled = stats.bootstrap(
        (wanted[:, 0], got[:, 0]), r2_score, paired=True, vectorized=False, n_resamples=1000, method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose(found["ci95"], resampled, atol=0.01)


def test_one_value_is_not_an_agreement_by_argmax() -> None:
    noise = RNG.normal(size=(400, 1))
    assert (
        metrics.agreement("top1", noise, WANTED[:, :, 0], "kit") == 1.0
    )  # which is why values have metrics of their own
    assert metrics.agreement("r2", noise, WANTED[:, :, 0], "kit") < 0


def test_cosine_is_within_its_range_and_knows_one_sample_bounds_nothing() -> None:
    assert metrics.accuracy("cosine", WANTED, WANTED[:, 0], "kit")["ci95"] == pytest.approx((1, 1))
    assert metrics.accuracy("cosine", GOT[:1], WANTED[:1, 0], "kit")["ci95"] == (-1, 1)


def test_labels_of_another_shape_are_an_error() -> None:
    with pytest.raises(EngineError, match=r"kit: outputs of shape \(400, 3\) cannot be held against .* \(400, 2\)"):
        metrics.accuracy("r2", GOT, WANTED[:, 0, :2], "kit")
