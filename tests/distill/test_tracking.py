"""What trainings tell TensorBoard: read back from the file that it wrote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgedistill.config.schema import TrackingConfig
from edgedistill.config.training import TrainingConfig
from edgedistill.distill.settings import Tracking
from edgedistill.distill.tracking import PACKAGES, TrackingFolder, log_epoch, tracked
from edgedistill.records.training import Epoch

EPOCHS = tuple(Epoch(epoch=i, loss=2.0 / i, lr=0.1, val_accuracy=0.25 * i, seconds=1.5) for i in (1, 2, 3))


def test_nothing_is_told_by_default(tmp_path):
    assert TrackingConfig().trackers == ()
    place = TrackingFolder(Tracking(trackers=(), project="digits"), tmp_path / "tracking")
    with tracked(place, "student", TrainingConfig()) as accelerator:
        log_epoch(accelerator, EPOCHS[0])
    assert accelerator.trackers == []
    assert not (tmp_path / "tracking").exists()


def test_a_tracker_that_is_not_installed_is_named_with_its_extra():
    code = (
        "import sys\nsys.modules['mlflow'] = None\n"
        "from edgedistill.distill.tracking import check_trackers\n"
        "try:\n    check_trackers(['mlflow'])\nexcept Exception as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip().endswith("mlflow is not installed; run: pip install 'edgedistill[mlflow]'")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_configuration_names_trackers_that_exist(name):
    assert TrackingConfig(trackers=(name,)).trackers == (name,)
    with pytest.raises(ValueError, match="trackers"):
        TrackingConfig(trackers=("wandb",))


TELL = """
import json, pathlib, sys, warnings
from edgedistill.config.training import TrainingConfig
from edgedistill.distill.settings import Tracking
from edgedistill.distill.tracking import TrackingFolder, log_epoch, tracked
from edgedistill.records.stages import Epoch
folder, name, epochs = pathlib.Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
place = TrackingFolder(Tracking(trackers=(name,), project="digits"), folder)
with tracked(place, "student seed 1", TrainingConfig(epochs=3)) as accelerator:
    for epoch in epochs:
        log_epoch(accelerator, Epoch.model_validate(epoch))
"""


READ = """
import json
from mlflow.tracking import MlflowClient
client = MlflowClient("sqlite:///mlflow.db")
(run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
losses = [[point.step, point.value] for point in client.get_metric_history(run.info.run_id, "loss")]
print(json.dumps([run.info.run_name, run.data.params["optimizer"], losses]))
"""


def told(folder: Path, name: str) -> None:
    """Train nothing, but tell of three epochs, in a process of its own: trackers keep state, and warn of this and that."""
    pytest.importorskip(PACKAGES[name], reason=f"{name} is an extra: pip install 'edgedistill[{name}]'")
    epochs = json.dumps([epoch.model_dump() for epoch in EPOCHS])
    result = subprocess.run(
        [sys.executable, "-c", TELL, str(folder), name, epochs],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_tensorboard_is_told_of_each_epoch(tmp_path):
    told(tmp_path / "tracking", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(tmp_path / "tracking" / "student-seed-1" / "digits")).Reload()
    assert set(log.Tags()["scalars"]) == {"loss", "validation", "lr", "seconds"}
    losses = log.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3]
    assert [event.value for event in losses] == pytest.approx([epoch.loss for epoch in EPOCHS])
    assert [event.value for event in log.Scalars("validation")] == pytest.approx([0.25, 0.5, 0.75])


def test_mlflow_is_told_of_each_epoch(tmp_path):
    told(tmp_path / "tracking", "mlflow")
    result = subprocess.run([sys.executable, "-c", READ], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    name, optimizer, losses = json.loads(result.stdout)
    assert (name, optimizer) == ("student seed 1", "sgd")
    assert losses == [[epoch.epoch, epoch.loss] for epoch in EPOCHS]
