import re

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.config.training import DistillConfig
from edgedistill.distill.features import FeatureTeacher, feature_loss, feature_student
from edgedistill.errors import ConfigError
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.run import run_onnx
from edgedistill.losses.batch import Batch
from edgedistill.models.build import build_model, count_parameters
from edgedistill.quantize.prepare import layer_report, prepare
from edgedistill.tasks.segmentation import TASK
from tests.support.learning import interface, model

STREET = interface("image", (100, 72, 3), 5, task="segmentation")


def built(width: float = 0.25, depth: float = 1.0) -> nn.Module:
    return build_model(model("zoo:segmenter", width, depth), STREET, 0)


@pytest.mark.parametrize("size", [(100, 72), (64, 64), (90, 101)])
def test_class_maps_have_a_quarter_of_the_size_rounded_up(size: tuple[int, int]) -> None:
    maps = built()(torch.randn(2, 3, *size))
    assert maps.shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))


def test_width_and_depth_multiply_channels_and_blocks() -> None:
    wide = build_model(model("zoo:segmenter"), interface("image", (360, 480, 3), 11, task="segmentation"), 0)
    assert 300_000 < count_parameters(wide) <= 400_000
    for depth, blocks in ((1.0, 9), (2.0, 16)):
        names = [name for name, _ in built(depth=depth).named_modules()]
        assert sum(re.fullmatch(r"stages\.\d+\.\d+\.depthwise", name) is not None for name in names) == blocks
    with pytest.raises(ConfigError, match=r"depth 0\.2 leaves none of 2 blocks"):
        built(depth=0.2)
    with pytest.raises(ConfigError, match=r"'zoo:segmenter' has no outputs for task 'classification'"):
        build_model(model("zoo:segmenter"), interface("image", (100, 72, 3)), 0)


@pytest.mark.slow
def test_an_exported_segmenter_is_the_same_function_and_int8_in_all_layers() -> None:
    torch.manual_seed(0)
    segmenter, x = built(), torch.randn(4, 3, 100, 72)
    segmenter(x)
    file = export_onnx(segmenter.eval(), (x[:1],), 13)
    (found,) = run_onnx(file.SerializeToString(), {"input": x[:1].numpy()[None]}).values()
    with torch.no_grad():
        np.testing.assert_allclose(found[0], segmenter(x[:1]), atol=1e-4)
    assert set(layer_report(prepare(segmenter, (x,))).values()) == {"int8"}


def test_a_segmenter_learns_from_the_layers_of_a_wider_one() -> None:
    plan = DistillConfig(
        loss="cwd-features", views=0, student_layers=("stages.2", "stages.3"), teacher_layers=("stages.2", "stages.3"),
        hard_weight=0.5,
    )  # fmt: skip
    x = torch.randn(2, 3, 64, 64)
    teacher = FeatureTeacher(built(0.5), plan.teacher_layers, "fp32")
    student = feature_student(plan, built(), teacher, {"input": x}, 0).train()
    batch = Batch({"input": x}, torch.randint(0, 5, (2, 64, 64), dtype=torch.uint8))
    loss = feature_loss(plan, TASK.distillation_loss(plan, None), teacher, None)
    value = loss(student(x), batch)
    value.backward()
    assert value.isfinite()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in student.regressors.parameters())
