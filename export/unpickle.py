"""A reader of torch's files that makes tensors and plain containers, and runs nothing that a pickle asks for.

Official checkpoints carry the training's configuration, history and times as objects of many libraries. Here
each of them becomes a placeholder that accepts everything and does nothing. The pickle machine can only call
what ``find_class`` hands out, and that is nothing but the classes of this file, which cannot be changed.
Formats: torch/serialization.py (``_legacy_save`` before torch 1.6, ``_save`` since).
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from ..errors import CheckpointError

_ZIP_SIGNATURE = b"PK"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# What runs code, starts programs or reaches files and networks: no training's state is made of these.
# builtins.getattr is not among them: enumerations and nested classes are written with it.
_DANGEROUS_MODULES = re.compile(
    r"asyncio|bdb|cProfile|code|codeop|commands|ctypes|ftplib|http|imaplib|importlib|marshal|multiprocessing|nt"
    r"|os|pdb|_?pickle|pip|pkgutil|posix|profile|pty|requests|runpy|shutil|smtplib|_?socket|_?(posix)?subprocess"
    r"|sys|telnetlib|_thread|timeit|urllib|venv|webbrowser"
)
_DANGEROUS_BUILTINS = re.compile(
    r"(builtins|__builtin__|_?io)\.(__import__|apply|breakpoint|compile|delattr|eval|exec|execfile|exit|file"
    r"|globals|help|input|locals|open|quit|reload|setattr|vars)"
)

_DTYPES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


@dataclass(frozen=True)
class Unpickled:
    """What a file holds.

    content: containers with tensors on the CPU, and ``Inert`` objects in place of everything else.
    unknown: names of the classes and functions that were not made or called, in the file's order.
    """

    content: object
    unknown: tuple[str, ...]


class Closed:
    """Base of all that a pickle gets: its BUILD instruction, which sets attributes, has no effect."""

    __slots__ = ()

    def __setstate__(*ignored: object) -> None:  # also asked of the class itself, then without an instance
        return None


class Inert(Closed):
    """In place of an object that was not made. It takes what is done to it and keeps nothing."""

    __slots__ = ()
    asked_for: ClassVar[str] = ""

    def __new__(cls, *ignored: object, **more: object) -> "Inert":
        return super().__new__(cls)

    def __call__(*ignored: object, **more: object) -> object:
        return ignored[0]

    def append(*ignored: object) -> None:
        return None

    extend = add = __setitem__ = append


class _Items(Closed, dict[Any, Any]):
    """In place of OrderedDict, whose attributes (a state dict's ``_metadata``) do not matter."""

    __slots__ = ()


class _Function(Closed):
    """A function that a pickle may call."""

    __slots__ = ("_call",)
    _call: Callable[..., object]

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> object:
        return self._call(*arguments)


class _StorageType(Closed):
    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Storage(Closed):
    """Bytes of a tensor's storage; a legacy file fills them after the pickle has been read."""

    __slots__ = ("buffer", "dtype")

    def __init__(self, buffer: memoryview, dtype: torch.dtype) -> None:
        self.buffer = buffer
        self.dtype = dtype

    def flat(self, dtype: torch.dtype) -> Tensor:
        if not len(self.buffer):
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(self.buffer, dtype=dtype)


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

        def storage(kind: _StorageType, key: object, numel: int) -> _Storage:
            if str(key) not in buffers:
                buffers[str(key)] = _zip_record(archive, f"{folder}data/{key}", numel * kind.dtype.itemsize)
            return _Storage(buffers[str(key)], kind.dtype)

        with archive.open(pickles[0]) as stream:
            reader = _Reader(stream, path, storage)
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

    def storage(kind: _StorageType, key: object, numel: int) -> _Storage:
        name, size = str(key), numel * kind.dtype.itemsize
        nonlocal free
        if name not in buffers:
            if not 0 <= size <= free:
                raise ValueError(f"storage {name} is larger than the file")
            free -= size
            buffers[name], sizes[name] = memoryview(bytearray(size)), kind.dtype.itemsize
        return _Storage(buffers[name], kind.dtype)

    if _Reader(stream, path, storage).load() != _LEGACY_MAGIC:
        raise ValueError("it does not begin as torch's files do")
    _Reader(stream, path, storage).load()
    system = _Reader(stream, path, storage).load()
    if isinstance(system, dict) and not system.get("little_endian", True):
        raise ValueError("it was written on a big-endian machine")
    reader = _Reader(stream, path, storage)
    content = reader.load()
    keys = _Reader(stream, path, storage).load()
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


class _Reader(pickle._Unpickler):
    """The pickle machine without a way out of this file.

    The one in Python: the one in C takes gigabytes when a damaged file numbers an object 4294967295.
    """

    def __init__(
        self, stream: IO[bytes], path: Path, storage: Callable[[_StorageType, object, int], _Storage]
    ) -> None:
        # text of Python 2 is bytes to a pickle; torch reads it as UTF-8 too
        super().__init__(stream, encoding="utf-8", errors="replace")
        self._path = path
        self._storage = storage
        self.unknown: dict[str, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> object:
        asked_for = f"{module}.{name}"
        _refuse_attack(module, name, self._path)
        known = _known(asked_for)
        if known is not None:
            return known
        if asked_for not in self.unknown:
            self.unknown[asked_for] = type("Inert", (Inert,), {"__slots__": (), "asked_for": asked_for})
        return self.unknown[asked_for]

    def persistent_load(self, identity: Any) -> object:
        if identity[0] == "module":  # a class with its source code
            return identity[1]
        if identity[0] != "storage":
            raise ValueError(f"it refers to a {identity[0]!r}")
        kind, key, _, numel, *view = identity[1:]
        if not isinstance(kind, _StorageType):
            return kind
        storage = self._storage(kind, key, int(numel))
        if not view or view[0] is None:
            return storage
        _, offset, size = view[0]
        step = kind.dtype.itemsize
        return _Storage(storage.buffer[offset * step : (offset + size) * step], kind.dtype)


def _refuse_attack(module: str, name: str, path: Path) -> None:
    parts = (module.split(".")[0], *name.split(".")[:-1])  # protocol 4 has names with dots: torch, os.system
    if any(map(_DANGEROUS_MODULES.fullmatch, parts)) or _DANGEROUS_BUILTINS.fullmatch(f"{module}.{name}"):
        raise CheckpointError(
            f"{path}: its pickle asks for {module}.{name}, which runs code on the machine that loads it. "
            "No training writes that: take the file for an attack. Nothing was executed. Delete it, and get "
            "the checkpoint from where it was published"
        )


def _known(asked_for: str) -> object | None:
    if asked_for in _FUNCTIONS:
        return _FUNCTIONS[asked_for]
    module, _, name = asked_for.rpartition(".")
    if module in ("torch", "torch.storage", "torch.cuda") and name in _DTYPES:
        return _StorageType(_DTYPES[name])
    value = getattr(torch, name, None) if module == "torch" else None
    return value if isinstance(value, torch.dtype) else None


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *ignored: object) -> object:
    return _strided(storage, offset, size, stride, None)


def _typed_tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> object:
    """Arguments as _rebuild_tensor_v3 has them: requires_grad, hooks, then the dtype."""
    return _strided(storage, offset, size, stride, rest[2])


def _strided(storage: Any, offset: int, size: Any, stride: Any, dtype: torch.dtype | None) -> object:
    if isinstance(storage, Inert) or (isinstance(storage, type) and issubclass(storage, Inert)):
        return storage if isinstance(storage, Inert) else storage()
    if not isinstance(storage, _Storage):
        raise ValueError(f"it makes a tensor of {type(storage).__name__}")
    return storage.flat(dtype or storage.dtype).as_strided(size, stride, offset)


_FUNCTIONS: Mapping[str, object] = {
    "collections.OrderedDict": _Items,
    "collections.defaultdict": _Function(lambda *ignored: _Items()),
    "builtins.set": _Function(set),
    "__builtin__.set": _Function(set),
    "builtins.frozenset": _Function(frozenset),
    "__builtin__.frozenset": _Function(frozenset),
    "torch.Size": _Function(tuple),
    "torch.device": _Function(lambda *arguments: arguments),
    "torch._utils._rebuild_tensor": _Function(_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_tensor_v3": _Function(_typed_tensor),
    "torch._utils._rebuild_parameter": _Function(lambda data, *ignored: data),
    "torch._utils._rebuild_parameter_with_state": _Function(lambda data, *ignored: data),
}
