from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hamuco.training.datasets.files import DatasetError, entry, read_json, to_array


def test_shapes_with_any_length() -> None:
    np.testing.assert_array_equal(to_array([[1, 2], [3, 4]], (-1, 2), "points"), [[1.0, 2.0], [3.0, 4.0]])
    for values, found in (([[1, 2, 3]], r"\(1, 3\)"), ([1, 2], r"\(2,\)"), (7, r"\(\)")):
        with pytest.raises(DatasetError, match=rf"points has shape {found}, expected \(-1, 2\)"):
            to_array(values, (-1, 2), "points")
    for ragged in ([[1], [1, 2]], [["x", 1]], {"a": 1}):
        with pytest.raises(DatasetError, match="points is not an array of numbers"):
            to_array(ragged, (-1, 2), "points")


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a.json is missing: unpack A.zip again"):
        read_json(tmp_path / "a.json", "A.zip")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DatasetError, match=r"a.json is damaged \(.*\): unpack A.zip again"):
        read_json(tmp_path / "a.json", "A.zip")
    with pytest.raises(DatasetError, match=r"a.json should have an entry 'K', but holds the keys 'x', 'y'"):
        entry({"x": 1, "y": 2}, "K", tmp_path / "a.json")
