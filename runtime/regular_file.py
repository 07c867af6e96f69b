"""Reading files that nobody vouches for: plain files only, never through a link, never more than a limit."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import BundleError

_CHUNK = 1 << 20


def read_regular(path: Path, limit: int, cure: str) -> bytes:
    """The whole content of a plain file of at most ``limit`` bytes.

    Raises BundleError, which ends with ``cure``, for a missing file, a link, a folder, a device or pipe
    (which could wait for ever), a larger file, and one that cannot be read.
    """
    with _opened(path, cure) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise BundleError(f"{path}: has {size} bytes, more than the {limit} that it may have. {cure}")
        return b"".join(_chunks(descriptor, limit + 1))


def hash_regular(path: Path, cure: str) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a plain file, without holding it in memory. Raises as ``read_regular``."""
    digest, size = hashlib.sha256(), 0
    with _opened(path, cure) as descriptor:
        for chunk in _chunks(descriptor, None):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def size_of_regular(path: Path, cure: str) -> int:
    """Size in bytes of a plain file. Raises as ``read_regular``."""
    with _opened(path, cure) as descriptor:
        return os.fstat(descriptor).st_size


@contextmanager
def _opened(path: Path, cure: str) -> Iterator[int]:
    """A descriptor of a plain file; whatever the path comes to mean later, it stays that file."""
    try:
        if path.is_symlink():
            raise BundleError(f"{path}: is a symbolic link; a bundle holds its files itself. {cure}")
        # a link that takes the file's place now fails to open; a pipe opens at once and is refused below
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{path}: the file is missing. {cure}") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}). {cure}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"{path}: is no plain file. {cure}")
        yield descriptor
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}). {cure}") from error
    finally:
        os.close(descriptor)


def _chunks(descriptor: int, limit: int | None) -> Iterator[bytes]:
    left = limit
    while left is None or left > 0:
        chunk = os.read(descriptor, _CHUNK if left is None else min(_CHUNK, left))
        if not chunk:
            return
        left = None if left is None else left - len(chunk)
        yield chunk
