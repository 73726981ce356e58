import numpy as np
import pytest
from onnx import TensorProto, helper

from edgedistill.data.requests import read_samples
from edgedistill.errors import ConfigError


def model(*inputs):
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    nodes = [helper.make_node("Cast", [inputs[0][0]], ["y"], to=TensorProto.FLOAT)]
    graph = helper.make_graph(nodes, "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    return helper.make_model(graph)


IMAGE = model(("x", TensorProto.FLOAT, ["n", 3, 8, 8]))


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


@pytest.mark.parametrize("name", ["inputs", "x", "input.x"])
@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (5, 1, 3, 8, 8)])
def test_one_input_goes_by_any_of_its_names_in_rows_or_requests(tmp_path, name, shape):
    values = np.random.default_rng(0).normal(size=shape)  # float64, as numpy makes it
    found = read_samples(saved(tmp_path, **{name: values}, labels=np.arange(5)), IMAGE)
    assert found.requests["x"].shape == (5, 1, 3, 8, 8)
    assert found.requests["x"].dtype == np.float32
    assert found.labels.tolist() == [0, 1, 2, 3, 4]
    assert found.first(2)["x"].shape == (2, 1, 3, 8, 8)


def test_several_inputs_and_single_numbers(tmp_path):
    several = model(
        ("x", TensorProto.FLOAT, [1, 4]), ("state", TensorProto.FLOAT, [2, 1, 3]), ("sr", TensorProto.INT64, [])
    )
    path = saved(tmp_path, x=np.zeros((6, 4)), state=np.zeros((6, 2, 1, 3)), sr=np.full(6, 8000))
    shapes = {name: values.shape for name, values in read_samples(path, several).requests.items()}
    assert shapes == {"x": (6, 1, 4), "state": (6, 2, 1, 3), "sr": (6,)}
    with pytest.raises(ConfigError, match=r"has no array 'state' for input 'state'.*perhaps 'states'"):
        read_samples(saved(tmp_path, x=np.zeros((6, 4)), states=np.zeros(6), sr=np.zeros(6, int)), several)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((2, 3, 8, 8))}, r"has no array 'inputs' for input 'x'"),
        (
            {"inputs": np.zeros((2, 3, 8, 8), np.uint8)},
            r"are uint8, but the model takes float32; store preprocessed samples",
        ),
        ({"inputs": np.zeros((2, 192))}, r"have shape \(2, 192\); the input has 4 dimensions"),
        ({"inputs": np.zeros((0, 3, 8, 8))}, r"at least one"),
        ({"inputs": np.zeros((2, 3, 8, 8)), "labels": np.zeros(3, int)}, r"the same number of samples"),
        (
            {"inputs": np.zeros((2, 3, 8, 8)), "labels": np.zeros(2)},
            r"labels are float64\(2,\); expected class numbers",
        ),
        ({"inputs": np.array([None, 1], object)}, "not a readable .npz file"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, arrays, words):
    with pytest.raises(ConfigError, match=words):
        read_samples(saved(tmp_path, **arrays), IMAGE)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.npz: no such file"):
        read_samples(tmp_path / "data.npz", IMAGE)
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ConfigError, match=r"not a readable \.npz file"):
        read_samples(tmp_path / "data.npz", IMAGE)
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with pytest.raises(ConfigError, match=r"are read from an \.npz file"):
        read_samples(tmp_path / "plain.npy", IMAGE)


@pytest.mark.parametrize(
    ("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (-1e30, r"-1e\+30|-inf")]
)
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_value_that_ruins_every_range_is_named_with_its_sample(tmp_path, value, shown, kind):
    inputs = np.zeros((5, 3, 8, 8), kind)
    with np.errstate(over="ignore"):
        inputs[3, 1, 0, 2] = value
    inputs[4] = np.nan
    with pytest.raises(ConfigError, match=rf"data\.npz: sample 3 of input 'x' has the value ({shown}); .* remove this"):
        read_samples(saved(tmp_path, inputs=inputs), IMAGE)
