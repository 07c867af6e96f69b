"""torch's file formats around the inert pickle machine: zip since torch 1.6, and the legacy one before.

Sources: torch/serialization.py (``_legacy_save`` and ``_save``).
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .inert import Reader, Storage, StorageType

_ZIP_SIGNATURE = b"PK"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Unpickled:
    """What a file holds.

    content: containers with tensors on the CPU, and ``Inert`` objects in place of everything else.
    unknown: names of the classes and functions that were not made or called, in the file's order.
    """

    content: object
    unknown: tuple[str, ...]


def read_inertly(path: Path) -> Unpickled:
    """Read a file of torch.save, in the zip or the legacy format, without running anything of it.

    Raises CheckpointError for a pickle that asks for what only an attack needs, such as ``os.system``, and
    any other exception for a damaged file.
    """
    with path.open("rb") as stream:
        if stream.read(2) == _ZIP_SIGNATURE:
            return _read_zip(path)
        stream.seek(0)
        return _read_legacy(stream, path)


def _read_zip(path: Path) -> Unpickled:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} files in it are called data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")
        buffers: dict[str, memoryview] = {}

        def storage(kind: StorageType, key: object, numel: int) -> Storage:
            if str(key) not in buffers:
                buffers[str(key)] = _zip_record(archive, f"{folder}data/{key}", numel * kind.dtype.itemsize)
            return Storage(buffers[str(key)], kind.dtype)

        with archive.open(pickles[0]) as stream:
            reader = Reader(stream, path, storage)
            return Unpickled(reader.load(), tuple(reader.unknown))


def _zip_record(archive: zipfile.ZipFile, name: str, size: int) -> memoryview:
    if archive.getinfo(name).file_size != size:
        raise ValueError(f"{name} has {archive.getinfo(name).file_size} bytes and should have {size}")
    buffer = memoryview(bytearray(size))
    with archive.open(name) as stream:
        _fill(stream, buffer)
    return buffer


def _read_legacy(stream: IO[bytes], path: Path) -> Unpickled:
    """Five pickles: a number, protocol, system, the object, the keys of its storages; then their bytes."""
    free = path.stat().st_size
    buffers: dict[str, memoryview] = {}
    sizes: dict[str, int] = {}

    def storage(kind: StorageType, key: object, numel: int) -> Storage:
        name, size = str(key), numel * kind.dtype.itemsize
        nonlocal free
        if name not in buffers:
            if not 0 <= size <= free:
                raise ValueError(f"storage {name} is larger than the file")
            free -= size
            buffers[name], sizes[name] = memoryview(bytearray(size)), kind.dtype.itemsize
        return Storage(buffers[name], kind.dtype)

    if Reader(stream, path, storage).load() != _LEGACY_MAGIC:
        raise ValueError("it does not begin as torch's files do")
    Reader(stream, path, storage).load()
    system = Reader(stream, path, storage).load()
    if isinstance(system, dict) and not system.get("little_endian", True):
        raise ValueError("it was written on a big-endian machine")
    reader = Reader(stream, path, storage)
    content = reader.load()
    keys = Reader(stream, path, storage).load()
    if not isinstance(keys, list) or {str(key) for key in keys} != set(buffers):
        raise ValueError("its storages are not those that its tensors use")
    for key in map(str, keys):
        numel = int.from_bytes(stream.read(8), "little")
        if numel * sizes[key] != len(buffers[key]):
            raise ValueError(f"storage {key} has {numel} numbers")
        _fill(stream, buffers[key])
    return Unpickled(content, tuple(reader.unknown))


def _fill(stream: Any, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        read = stream.readinto(buffer[done:])
        if not read:
            raise EOFError(f"it ends {len(buffer) - done} bytes too early")
        done += read
