"""What was found, written and read back."""

from pathlib import Path

import numpy as np
import pytest

from posedge.benchmarks.arrays import read_arrays, write_arrays
from posedge.errors import BundleError, OutputError

ARRAYS = {"keypoints": np.arange(6000, dtype=np.float32).reshape(-1, 2), "ids": np.array([3, 1], np.int64)}


def test_arrays_read_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "fp32.npz"
    write_arrays(path, ARRAYS)
    found = read_arrays(path, ("ids", "keypoints"))
    assert list(found) == ["ids", "keypoints"]
    for name, array in found.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.dtype == ARRAYS[name].dtype
    assert [file.name for file in path.parent.iterdir()] == ["fp32.npz"]


def test_a_file_that_is_missing_damaged_or_another_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fp32.npz"
    with pytest.raises(BundleError, match=r"fp32\.npz.*delete the file"):
        read_arrays(path, ("ids",))
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    with pytest.raises(BundleError, match="labels"):
        read_arrays(path, ("labels",))
    middle = len(whole) // 2
    for content in (b"", b"text", whole[:-30], whole[:middle] + bytes(40) + whole[middle + 40 :]):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"fp32\.npz"):
            read_arrays(path, ("ids", "keypoints"))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/fp32"):
        write_arrays(tmp_path / "file" / "fp32.npz", ARRAYS)
