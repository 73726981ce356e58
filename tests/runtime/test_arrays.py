"""Archives of arrays that edgedistill writes."""

import numpy as np
import pytest

from edgedistill.runtime.arrays import array_names, read_arrays, write_arrays


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_of_any_name_are_read_as_they_were_written(tmp_path, compressed):
    """An output of a model may have the name of an argument of numpy.savez."""
    path = tmp_path / "x.npz"
    arrays = {
        "file": np.arange(6, dtype=np.float32).reshape(2, 3), "allow_pickle": np.array(True), "a/b": np.array(["x", "yz"]),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)), "empty": np.zeros((0, 4), np.int8),
    }  # fmt: skip
    write_arrays(path, arrays, compressed=compressed)
    assert array_names(path, "x") == list(arrays)
    with np.load(path, allow_pickle=False) as loaded:
        assert loaded.files == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(loaded[name], array, strict=True)
    for name, array in read_arrays(path, "x").items():
        np.testing.assert_array_equal(array, arrays[name], strict=True)


def test_objects_are_not_pickled(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_arrays(tmp_path / "x.npz", {"x": np.array([{}, None])})
