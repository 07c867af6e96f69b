"""The pickle machine of checkpoint files: it makes tensors and plain containers, and runs nothing.

Official checkpoints carry the training's configuration, history and times as objects of many libraries. Here
each of them becomes a placeholder that accepts everything and does nothing. The pickle machine can only call
what ``find_class`` hands out, and that is nothing but the classes of this file, which cannot be changed.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from ..errors import CheckpointError

# Where functions live that run code, start programs or reach files and networks: no training's state is made
# of these. Classes and constants of the same modules (http.HTTPStatus, os.stat_result) are harmless, for none
# is made.
# builtins.getattr is not refused: enumerations and nested classes are written with it.
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


class StorageType(Closed):
    """In place of a storage's class, which says of what type its numbers are."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class Storage(Closed):
    """Bytes of a tensor's storage; a legacy file fills them after the pickle has been read."""

    __slots__ = ("buffer", "dtype")

    def __init__(self, buffer: memoryview, dtype: torch.dtype) -> None:
        self.buffer = buffer
        self.dtype = dtype

    def flat(self, dtype: torch.dtype) -> Tensor:
        if not len(self.buffer):
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(self.buffer, dtype=dtype)


class Reader(pickle._Unpickler):
    """The pickle machine without a way out of this file.

    The one in Python: the one in C takes gigabytes when a damaged file numbers an object 4294967295.
    """

    def __init__(
        self, stream: IO[bytes], path: Path, storage: Callable[[StorageType, object, int], Storage]
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
        if not isinstance(kind, StorageType):
            return kind
        storage = self._storage(kind, key, int(numel))
        if not view or view[0] is None:
            return storage
        _, offset, size = view[0]
        step = kind.dtype.itemsize
        return Storage(storage.buffer[offset * step : (offset + size) * step], kind.dtype)


def _refuse_attack(module: str, name: str, path: Path) -> None:
    parts = (module.split(".")[0], *name.split(".")[:-1])  # protocol 4 has names with dots: torch, os.system
    last = name.rpartition(".")[2]
    reaches_out = any(map(_DANGEROUS_MODULES.fullmatch, parts)) and _is_function(last)
    if reaches_out or _DANGEROUS_BUILTINS.fullmatch(f"{module}.{name}"):
        raise CheckpointError(
            f"{path}: its pickle asks for {module}.{name}, which runs code on the machine that loads it. "
            "No training writes that: take the file for an attack. Nothing was executed. Delete it, and get "
            "the checkpoint from where it was published"
        )


def _is_function(name: str) -> bool:
    """Whether the thing of that name does something, by Python's habit of naming; Popen starts a program."""
    return name == "Popen" or (name.islower() and not name.endswith(("_result", "_size")))


def _known(asked_for: str) -> object | None:
    if asked_for in _FUNCTIONS:
        return _FUNCTIONS[asked_for]
    module, _, name = asked_for.rpartition(".")
    if module in ("torch", "torch.storage", "torch.cuda") and name in _DTYPES:
        return StorageType(_DTYPES[name])
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
    if not isinstance(storage, Storage):
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
