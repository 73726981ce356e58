"""Teachers that end in a softmax: soft labels hold logits of the same probabilities, for each form of teacher."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from edgedistill.distill.probabilities import MESSAGE, are_probabilities, log_probabilities
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.records.stages import StudentRecord
from edgedistill.runtime.folder import Run
from edgedistill.tasks.table import find_task
from tests.support.command import edgedistill
from tests.support.learning import config_of
from tests.support.listener import Listener

CONFIG = """
name = "soft"
[data]
train = "data.npz"
test = "data.npz"
[teacher]
{teacher}
[student]
model = "zoo:mlperf-resnet8"
[distill]
views = 1
[[target]]
name = "pc"
kit = "ort"
"""
NETS = """
from torch import nn
def plain(classes):
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, classes))
def soft(classes):
    return plain(classes).append(nn.Softmax(1))
"""
CODE = """
from torch import nn
def soft(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Softmax(1))
"""
TEACHERS = {
    "onnx": 'model = "net.onnx"', "saved": 'model = "saved.npy"',
    "torch": 'model = "nets:soft"\nweights = "net.safetensors"\nengine = "torch"',
}  # fmt: skip


def soft_onnx(dense: nn.Linear) -> onnx.ModelProto:
    """Return an ONNX model that flattens images of 8 x 8, and ends in a softmax."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("Gemm", ["flat", "w", "b"], ["z"], transB=1),
        helper.make_node("Softmax", ["z"], ["y"], axis=1),
    ]  # fmt: skip
    values = {"w": dense.weight, "b": dense.bias}
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in {"x": ["N", 1, 8, 8], "y": ["N", 3]}.items()
    ]
    weights = [numpy_helper.from_array(value.detach().numpy(), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "soft", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("form", TEACHERS)
def test_probabilities_become_logits(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "data.npz", inputs=images, labels=labels)
    (tmp_path / "nets.py").write_text(CODE)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softmax(1)).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    onnx.save(soft_onnx(net[1]), tmp_path / "net.onnx")
    np.save(tmp_path / "saved.npy", (0.5 * rng.dirichlet(np.ones(3), 60) + 0.5 * np.eye(3)[labels]).astype(np.float32))
    (tmp_path / "c.toml").write_text(CONFIG.format(teacher=TEACHERS[form]))
    done = edgedistill("run", "c.toml", "--run-dir", "r", "--until", "soft_labels", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("teacher: outputs are probabilities") == 1
    kept = torch.from_numpy(np.load(tmp_path / "r/soft_labels/logits.npy").astype(np.float32))[0]
    torch.testing.assert_close(kept.exp().sum(1), torch.ones(len(kept)), atol=0.01, rtol=0)


def test_a_loss_on_layers_is_the_same_for_a_teacher_that_ends_in_a_softmax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "nets.py").write_text(NETS)
    torch.manual_seed(0)
    rows, net = torch.randn(200, 16), nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    np.savez(tmp_path / "rows.npz", inputs=rows.numpy(), labels=net(rows).argmax(1).numpy())
    losses = []
    for name in ("plain", "soft"):
        config = config_of(
            tmp_path, data={"train": "rows.npz", "kind": "features"},
            teacher={"model": f"nets:{name}", "weights": "net.safetensors", "precision": "fp32"}, student={"model": "nets:plain"},
            distill={
                "loss": "hint", "views": 0, "student_layers": ["0"], "teacher_layers": ["0"], "hard_weight": 0.0, "epochs": 2,
                "precision": "fp32",
            },
            target=[{"name": "pc", "kit": "ort"}],
        )  # fmt: skip
        heard = Listener()
        made = run_pipeline(config, Run(tmp_path / name), find_kits(()), heard, Plan("distill")).records
        losses.append([epoch.loss for epoch in made[StudentRecord].student.history])
        assert heard.said.count(f"teacher: {MESSAGE}") == (name == "soft")
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_only_rows_that_sum_to_one_are_probabilities() -> None:
    task, soft = find_task("classification"), torch.eye(3)
    assert are_probabilities(task, soft)
    assert not are_probabilities(task, soft * 2)
    assert not are_probabilities(task, soft - torch.tensor([0.1, -0.1, 0.0]))
    assert not are_probabilities(find_task("multi-label"), soft)
    assert log_probabilities(soft).isfinite().all()
