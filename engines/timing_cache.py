"""The file in which measured kernel times are kept from build to build.

The library checks that a timing cache fits its version and its GPU, not that the bytes are whole. So the file
is sealed with a hash: a damaged one never reaches the library, whose parser might crash on it every time.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import BuildError
from ..files import replacing, sha256_bytes

_MAGIC = b"posedge timing cache 1\n"


class TimingCacheFile:
    """One timing cache on disk, shared by all builds that name it.

    library: name and version of the library, such as "tensorrt 10.3.0"; times of another one are not used.
    notes: what the user should hear of, a line each.
    """

    def __init__(self, path: Path, library: str) -> None:
        self.notes: list[str] = []
        self._path = path
        self._library = library.encode()

    def load(self) -> bytes:
        """The library's bytes; empty where there is no file yet, or one of another library or version.

        A damaged file is renamed to NAME.damaged, with a note. Raises BuildError for a file that is something
        else, which is left alone.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise BuildError(
                f"{self._path}: the timing cache cannot be read ({error.strerror}). Name another file"
            ) from error
        if content and not content.startswith(_MAGIC):
            raise BuildError(
                f"{self._path}: this is no timing cache of posedge, and it stays as it is. Name another "
                "file, which need not be there yet"
            )
        library, digest, payload = (*content[len(_MAGIC) :].split(b"\n", 2), b"", b"")[:3]
        if digest != _digest(library, payload):
            self._set_aside()
            return b""
        if library != self._library:
            note = f"the timing cache {self._path} is of {library.decode()}; a new one takes its place"
            self.notes += [] if note in self.notes else [note]
            return b""
        return payload

    def _set_aside(self) -> None:
        damaged = self._path.with_name(f"{self._path.name}.damaged")
        try:
            os.replace(self._path, damaged)
        except OSError as error:
            raise BuildError(
                f"{self._path}: the timing cache is damaged and cannot be set aside ({error.strerror}). "
                "Delete it, or name another file"
            ) from error
        self.notes.append(f"the timing cache {self._path} was damaged; it is now {damaged.name}")

    def update(self, merge: Callable[[bytes], bytes]) -> None:
        """Replace the file by what ``merge`` makes of its present content, to which others may have added.

        Builds wait for each other here, and only here. Raises OutputError or OSError.
        """
        with self._locked():
            payload = merge(self.load())
            with replacing(self._path) as temporary:
                temporary.write_bytes(
                    _MAGIC + b"\n".join((self._library, _digest(self._library, payload), payload))
                )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # beside the cache, because the cache itself is replaced
        handle = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # a build that was killed while it wrote; nobody else writes now
            for leftover in self._path.parent.glob(f".{self._path.name}.*.tmp"):
                leftover.unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)


def _digest(library: bytes, payload: bytes) -> bytes:
    return sha256_bytes(library + b"\n" + payload).encode()
