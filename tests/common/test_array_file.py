"""Files of arrays: every flipped bit is noticed."""

from pathlib import Path

import numpy as np
import pytest

from torch_ref.common.files.array_file import read_arrays, replacing, write_arrays


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Also those that only spell the metadata otherwise: 1E-05, or an escape in capitals."""
    path, metadata = tmp_path / "file", {"lr": 1e-05, "name": "caf\u00e9", "gap": None}
    write_arrays(path, {"a": np.array([1.5, -2.0]), "b": np.array([[7]])}, metadata)
    whole = path.read_bytes()
    assert read_arrays(path)[1] == metadata
    for bit in range(8 * len(whole)):
        held = bytearray(whole)
        held[bit // 8] ^= 1 << bit % 8
        path.write_bytes(held)
        with pytest.raises(ValueError, match="file"):
            read_arrays(path)


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "a" / "b"):
        with pytest.raises(NotADirectoryError, match=rf"^{path}: expected a file to write, got one in a file$"):
            write_arrays(path, {}, {})
    expected = rf"^{tmp_path}: expected a file to write, got a folder$"
    with pytest.raises(IsADirectoryError, match=expected), replacing(tmp_path):
        pass
