import numpy as np
import pytest
import torch

from edgedistill.errors import ConfigError
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.run import run_onnx
from edgedistill.losses.cells import BINS, cells_of, decode_boxes
from edgedistill.losses.decoding import Decoded
from edgedistill.models.build import build_model, count_parameters
from edgedistill.quantize.prepare import layer_report, prepare
from tests.support.learning import interface, model

PICTURES = interface("image", (100, 72, 3), 4, task="detection")


def small(width=0.25, depth=0.5):
    return build_model(model("zoo:detector", width, depth), PICTURES, 0)


@pytest.fixture(scope="module")
def trained():
    """Return a detector whose batch norms have seen data, and an input of 100x72 (height x width)."""
    torch.manual_seed(0)
    detector, x = small(), torch.randn(4, 3, 100, 72)
    detector(x)
    return detector.eval(), x


def test_outputs_cover_the_cells_of_all_levels(trained):
    detector, x = trained
    outputs = detector(x)
    count = 13 * 9 + 7 * 5 + 4 * 3
    assert {name: tuple(values.shape) for name, values in outputs.items()} == {
        "classes": (4, count, 4), "boxes": (4, count, 4 * BINS),
    }  # fmt: skip
    assert cells_of(100, 72).centres.shape == (count, 2)


def test_cells_run_row_by_row_and_level_by_level():
    centres, strides = cells_of(40, 16)
    assert strides.tolist() == [8] * 10 + [16] * 3 + [32] * 2
    assert centres[:3].tolist() == [[4, 4], [12, 4], [4, 12]]
    assert centres[10:].tolist() == [[8, 8], [8, 24], [8, 40], [16, 16], [16, 48]]


def test_the_cells_of_the_outputs_are_where_the_cells_say():
    """The class logits of a detector are those of a moved input, moved by the stride."""
    detector = small().eval()
    x = torch.zeros(1, 3, 192, 192)
    x[..., 60:70, 60:70] = 3
    moved = torch.roll(x, 32, 3)  # columns
    with torch.no_grad():
        here, there = (detector(one)["classes"][0, : 24 * 24].view(24, 24, 4) for one in (x, moved))
    torch.testing.assert_close(here[4:14, 4:14], there[4:14, 8:18], atol=1e-4, rtol=0)


def test_a_model_of_width_1_has_at_most_a_million_parameters_and_every_one_learns():
    detector = build_model(model("zoo:detector"), PICTURES, 0)
    assert count_parameters(detector) < 1_000_000
    outputs = small()
    sum(values.square().mean() for values in outputs(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in outputs.parameters())
    assert count_parameters(small(0.25, 1.0)) < count_parameters(small(0.25, 2.0)) < count_parameters(small(0.5, 2.0))
    with pytest.raises(ConfigError, match=r"depth 0\.2 leaves none of 2 blocks"):
        small(depth=0.2)


def test_the_zoo_has_a_detector_for_detection_alone():
    with pytest.raises(
        ConfigError, match=r"'zoo:detector' has no outputs for task 'classification'; name .*zoo:resnet"
    ):
        build_model(model("zoo:detector"), interface("image", (100, 72, 3)), 0)
    with pytest.raises(ConfigError, match=r"'zoo:resnet20' has no outputs for task 'detection'; name .* zoo:detector$"):
        build_model(model("zoo:resnet20"), PICTURES, 0)


def test_scores_begin_at_the_prior(trained):
    detector, x = trained
    assert detector(x)["classes"].sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)


def test_boxes_are_expected_distances_in_strides_from_the_centre():
    """Each side's distance is the sum of i * softmax_i (GFL, equation 5)."""
    cells = cells_of(64, 64)
    logits = torch.randn(2, len(cells.strides), 4 * BINS)
    decoded = decode_boxes(logits, cells)
    for cell in (0, 70, 83):
        shares = np.exp(logits[1, cell].numpy().astype(np.float64).reshape(4, BINS))
        left, top, right, bottom = (shares @ np.arange(BINS) / shares.sum(1)) * cells.strides[cell].item()
        x, y = cells.centres[cell].tolist()
        np.testing.assert_allclose(decoded[1, cell], [x - left, y - top, x + right, y + bottom], rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_boxes_and_their_gradients_are_those_of_a_softmax(scale):
    cells = cells_of(64, 96)
    logits = torch.randn(2, len(cells.strides), 4 * BINS, generator=torch.Generator().manual_seed(3)) * scale
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    boxes = decode_boxes(ours, cells)
    steps = theirs.unflatten(2, (4, BINS)).softmax(3) @ torch.arange(float(BINS))
    signs = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    expected = cells.centres.repeat(1, 2) + signs * steps * cells.strides[:, None]
    torch.testing.assert_close(boxes, expected, rtol=1e-5, atol=1e-3)
    weights = torch.randn(boxes.shape, generator=torch.Generator().manual_seed(4))
    (boxes * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_decoded_detector_exports_and_its_decoding_stays_float_in_int8(trained):
    detector, x = trained
    decoded = Decoded(detector, 100, 72).eval()
    with torch.no_grad():
        wanted = decoded(x[:1])
    file = export_onnx(decoded, (x[:1],), 13, output_names=("scores", "boxes"))
    got = run_onnx(file.SerializeToString(), {"input": x[:1].numpy()[None]})
    np.testing.assert_allclose(got["scores"][0], wanted["scores"], atol=1e-6)
    np.testing.assert_allclose(got["boxes"][0], wanted["boxes"], atol=1e-3)
    assert wanted["scores"].max() < 1
    assert wanted["boxes"].amin((0, 1)).tolist() == [0, 0, pytest.approx(32, abs=1), pytest.approx(32, abs=1)]
    assert wanted["boxes"].amax((0, 1))[2:].tolist() == [72, 100]
    prepared = prepare(decoded, (x,))
    assert set(layer_report(prepared).values()) == {"int8"}
    nodes = list(prepared.graph.graph.nodes)
    rounded = {node for node in nodes if node.op == "call_module"}
    exponential = next(node for node in nodes if str(node.target) == "aten.exp.default")
    assert not rounded & {*exponential.all_input_nodes, *exponential.users}
