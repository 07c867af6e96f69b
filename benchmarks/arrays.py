"""What a variant found, in a file: two variants that were measured in different runs can be compared."""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from ..files import replacing


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a compressed npz file, atomically. Raises OutputError."""
    save: Callable[..., None] = np.savez_compressed  # its own types take the names for options
    # numpy adds .npz to a name that lacks it, but takes an open file as it is
    with replacing(path) as temporary, temporary.open("wb") as stream:
        save(stream, **arrays)


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The arrays ``names`` of a file that ``write_arrays`` wrote.

    Raises BundleError when the file is missing, damaged or holds others.
    """
    try:
        # numpy leaves a file open that is no archive
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(
            f"{path}: what was found on the images cannot be read ({error}); "
            "delete the file and run the same command again, which measures the variant anew"
        ) from error
