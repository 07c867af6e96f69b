"""Official checkpoints on this machine: fetched once, resumed after a break, and never used unchecked."""

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

from .. import __version__
from ..errors import CheckpointError, OutputError
from ..files import CACHE_VARIABLE, cache_directory, sha256_file
from ..progress import SILENT, Progress, Task

# openmmlab writes the date before or behind the first digits of the file's SHA-256
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})(?:_\d{8})?\.\w+$")
_CHUNK = 1 << 18
_TIMEOUT_S = 30.0  # without a byte
_RANGE_NOT_SATISFIABLE = 416


def cached_path(address: str) -> Path:
    """Where the file of ``address`` is, or will be once it is fetched."""
    return cache_directory() / PurePosixPath(urlsplit(address).path).name


def fetch(address: str, progress: Progress = SILENT) -> Path:
    """The file of ``address``, from the cache directory or else from the network.

    The eight hex digits in its name are the start of its SHA-256 (openmmlab's convention); both a file that
    is there and one that arrives are checked against them. What arrived before a break is kept beside it
    (``.part``) and the next call goes on from there. The file appears whole, by an atomic rename.

    Raises CheckpointError when the server cannot be reached (the message says where to put which file),
    refuses, or breaks off; when a download, new or in the cache, does not match its hash, which is then
    deleted. OutputError when the cache cannot be written. While another run fetches the same file, this one
    waits for it.
    """
    target = cached_path(address)
    expected = _expected_hash(address)
    if target.exists():
        _check_cached(target, expected, address)
        return target
    part = target.with_name(f"{target.name}.part")
    with _locked(part, target, progress) as stream:
        if stream is not None:
            _download(address, stream, target, progress)
            _accept(part, target, expected, address)
    return target


def _expected_hash(address: str) -> str:
    parts = urlsplit(address)
    found = _HASH_IN_NAME.search(parts.path)
    if parts.scheme not in ("http", "https") or found is None:
        raise CheckpointError(
            f"{address}: only http addresses whose file name holds the start of its SHA-256 are fetched, "
            "because nothing else could be checked. Download it yourself and pass --checkpoint FILE"
        )
    return found.group(1)


def _check_cached(target: Path, expected: str, address: str) -> None:
    if not target.is_file():
        raise CheckpointError(f"{target} is not a file; the checkpoint from {address} belongs there")
    actual = sha256_file(target)
    if not actual.startswith(expected):
        try:
            target.unlink(missing_ok=True)
            fate = "It was deleted. Run"
        except OSError:
            fate = "It was not used. Delete it and run"
        raise CheckpointError(
            f"{target} is not the file that its name says: its SHA-256 begins with {actual[:8]}, not "
            f"{expected}. {fate} the same command again to fetch it, or put the file from {address} there"
        )


@contextmanager
def _cache_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{target}: the checkpoint cannot be kept there ({error.strerror}). Make room there, or set "
            f"{CACHE_VARIABLE} to another directory; what has arrived is kept"
        ) from error


@contextmanager
def _locked(part: Path, target: Path, progress: Progress) -> Iterator[IO[bytes] | None]:
    """The partial file, owned by this process; None when another one has finished it in the meantime."""
    while True:
        with _cache_errors(target):
            part.parent.mkdir(parents=True, exist_ok=True)
            stream = part.open("ab", buffering=0)
        with stream:
            _wait_for_lock(stream, target, progress)
            own = _is_at(stream, part)
            if target.exists():
                if own:
                    part.unlink()
                yield None
                return
            if own:
                try:
                    yield stream
                finally:
                    if _is_at(stream, part) and not os.fstat(stream.fileno()).st_size:
                        part.unlink()  # nothing has arrived
                return
        # whoever had it found it wrong and deleted it


def _wait_for_lock(stream: IO[bytes], target: Path, progress: Progress) -> None:
    """The lock is the kernel's, so it ends with the process that has it, however that ends."""
    import fcntl  # not on Windows, where nothing of posedge's deployment runs

    with _cache_errors(target):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note(f"{target.name}: another posedge run is fetching it; this one waits")
            fcntl.flock(stream, fcntl.LOCK_EX)


def _is_at(stream: IO[bytes], path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _download(address: str, stream: IO[bytes], target: Path, progress: Progress) -> None:
    """Append to ``stream`` until all of the file is there; a break is followed by the rest of it."""
    best = stream.seek(0, os.SEEK_END)
    with progress.task(f"fetch {target.name}") as task:
        while not _attempt(address, stream, target, task):
            size = stream.seek(0, os.SEEK_END)
            if size <= best:  # another try has brought nothing new
                raise CheckpointError(
                    f"{address}: the connection broke after {size} bytes. They are kept; the same command "
                    f"goes on from there. {_by_hand(address, target)}"
                )
            best = size


def _attempt(address: str, stream: IO[bytes], target: Path, task: Task) -> bool:
    """Ask for what is missing. Returns whether the file is complete."""
    start = stream.seek(0, os.SEEK_END)
    headers = {"User-Agent": f"posedge/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=_TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _RANGE_NOT_SATISFIABLE and start:
            if _total(error.headers.get("Content-Range")) == start:
                return True  # all of it had arrived before
            _truncate(stream, target)
            return _attempt(address, stream, target, task)
        raise CheckpointError(
            f"{address}: the server answers {error.code} {error.reason}. {_by_hand(address, target)}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise CheckpointError(
            f"{address} cannot be reached ({reason}). {_by_hand(address, target)}"
        ) from error
    with response:
        if start and not _continues(response, start):
            _truncate(stream, target)  # the server sends all of it again
            start = 0
        return _receive(response, stream, start, target, task)


def _receive(
    response: http.client.HTTPResponse, stream: IO[bytes], start: int, target: Path, task: Task
) -> bool:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdecimal() else None
    done = start
    while True:
        try:
            chunk = response.read1(_CHUNK)  # what is there: a break loses nothing
        except (OSError, http.client.HTTPException):
            return False
        if not chunk:
            return total is None or done >= total
        with _cache_errors(target):
            done += _write(stream, chunk)
        task.update(done, total)


def _write(stream: IO[bytes], chunk: bytes) -> int:
    rest = memoryview(chunk)
    while rest:  # an unbuffered file may take less than it is given
        rest = rest[stream.write(rest) :]
    return len(chunk)


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    span = response.headers.get("Content-Range", "")
    return response.status == http.client.PARTIAL_CONTENT and span.startswith(f"bytes {start}-")


def _total(span: str | None) -> int | None:
    found = re.fullmatch(r"bytes \*/(\d+)", span or "")
    return int(found.group(1)) if found else None


def _truncate(stream: IO[bytes], target: Path) -> None:
    with _cache_errors(target):
        stream.truncate(0)


def _accept(part: Path, target: Path, expected: str, address: str) -> None:
    actual = sha256_file(part)
    if not actual.startswith(expected):
        size = part.stat().st_size
        part.unlink()
        raise CheckpointError(
            f"{target.name}: the {size} bytes that arrived from {address} are not that file (their SHA-256 "
            f"begins with {actual[:8]}, not {expected}). They were deleted. Run the same command again; if "
            "it happens twice, something between here and the server changes the file"
        )
    with _cache_errors(target):
        os.replace(part, target)


def _by_hand(address: str, target: Path) -> str:
    return (
        f"Where there is no network, download {address} elsewhere and put it at {target}, or pass "
        "--checkpoint FILE"
    )
