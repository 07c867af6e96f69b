"""Files that appear whole or not at all, directories that one run owns, and content hashes."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError

CACHE_VARIABLE = "POSEDGE_CACHE"

_CHUNK = 1 << 20
_TEMPORARY = ".tmp"
_LOCK = ".lock"
_ATTEMPTS = 10  # to lock a directory whose owner is about to go


def cache_directory() -> Path:
    """Where fetched checkpoints and compiled kernels are kept: ~/.cache/posedge, or $POSEDGE_CACHE."""
    moved = os.environ.get(CACHE_VARIABLE)
    return Path(moved).expanduser() if moved else Path.home() / ".cache" / "posedge"


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of ``data`` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content as 64 lower-case hex digits, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNWRITABLE = {
    errno.EACCES,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write ``path`` into OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OutputError(
                f"{path}: the disk is full. Free some space and run the same command again; "
                "what was finished is kept."
            ) from error
        if error.errno in _UNWRITABLE:
            raise OutputError(
                f"{path}: cannot be written ({error.strerror}). Make it writable or, where the command takes "
                "-o, choose another output directory."
            ) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, delete it on failure.

    The rename is atomic, so a reader sees the old file or the new one and never a part of it.
    Raises OutputError when the disk is full or the directory is not writable.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp makes files private; results get the permissions of any other new file
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically. Raises OutputError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file atomically. Raises OutputError."""
    write_bytes(path, text.encode("utf-8"))


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files that a killed run left in ``directory``, which the caller must own."""
    for temporary in directory.glob(f".*{_TEMPORARY}"):
        temporary.unlink(missing_ok=True)


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Own ``directory`` for the time of the block; a second owner gets OutputError at once.

    The lock is the kernel's, so it ends with the process, however that ends. Directories that are made for it
    go again if the block leaves nothing in them.
    """
    lock = directory / _LOCK
    with output_errors(directory):
        made = [path for path in (directory, *directory.parents) if not path.exists()]
        handle = _locked(lock)
    try:
        yield
    finally:
        # while it is still locked, so that nobody begins there in between
        with suppress(OSError):  # what cannot be deleted, or has something in it, stays
            if [path.name for path in directory.iterdir()] == [_LOCK]:
                lock.unlink()
                for path in made:
                    path.rmdir()
        os.close(handle)


def _locked(lock: Path) -> int:
    """The handle of the file ``lock``, made with its directory where it is not there and locked here."""
    import fcntl  # not on Windows, where nothing of posedge's deployment runs

    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):  # the owner before has just deleted the file or its directory
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # a file that was deleted between the two calls locks nobody out
                if os.path.samestat(os.fstat(handle), lock.stat()):
                    return handle
            except BlockingIOError as error:
                os.close(handle)
                raise _owned(lock.parent) from error
            except OSError:
                os.close(handle)
                raise
            os.close(handle)
    raise _owned(lock.parent)


def _owned(directory: Path) -> OutputError:
    return OutputError(
        f"{directory}: another posedge run is writing here. Wait for it or, where the command takes -o, "
        "choose another directory."
    )


def short_name(path: Path) -> str:
    """A file with its folder, such as "coco/val.json", which tells apart what the name alone may not."""
    return f"{path.absolute().parent.name}/{path.name}"
