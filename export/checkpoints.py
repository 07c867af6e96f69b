"""Checkpoint files become state dicts, and state dicts become weights of a model.

Nothing in a file is ever executed: torch's restricted unpickler (``weights_only``) makes tensors and plain
containers and refuses everything else.
"""

import difflib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError

_PICKLE_SIGNATURE = b"\x80"  # legacy files, of torch before 1.6, are pickles one after the other
_ZIP_SIGNATURE = b"PK"
_LEGACY_PICKLES = 5  # a number, protocol, system, the object, the order of its storages; raw data follows

# what torch's pickles name to make tensors and plain containers
_TENSOR_GLOBALS = re.compile(
    r"collections\.OrderedDict|torch\.(\w+Storage|Size|device|Tensor|b?float\d+|u?int\d+|bool)"
    r"|torch\.storage\.\w+Storage|torch\._utils\._rebuild_\w+|torch\.nn\.parameter\.Parameter"
)

_SHOWN = 4  # keys of each kind in a message; the counts say how many there are


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint file, its keys as mmpose 1.x names them.

    Reads torch's legacy and zip formats; a dict that holds ``state_dict``, or a bare state dict. A leading
    ``module.`` is stripped, mmpose 0.x's ``keypoint_head.`` becomes ``head.``, and
    ``data_preprocessor.mean`` and ``.std`` are dropped, as mmpose 1.x does on load. Tensors are on the CPU
    in the file's order and dtype.

    Raises CheckpointError when the file is missing, empty, cut short or no checkpoint, when its pickle asks
    for anything but tensors and plain containers (nothing is executed; the message names what it asked
    for), or when it holds no state dict.
    """
    _check_signature(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickle protocols, which either load or do not
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = _refused_globals(path)
        if not refused:
            # torch's own words here advise to switch the protection off
            raise _damaged(path, "its pickle cannot be read") from error
        raise CheckpointError(
            f"{path}: its pickle asks for {', '.join(refused)}; a checkpoint may hold only tensors and plain "
            "containers. Nothing was executed. Save its state dict alone: "
            "torch.save({'state_dict': model.state_dict()}, file)"
        ) from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: there is not enough memory to load it") from error
    except Exception as error:  # torch raises whatever its readers meet in a damaged file
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _damaged(path, f"torch: {first_line[:120]}") from error
    return _rename(_state_dict(content, path), path)


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a checkpoint file into ``model``, key by key, converted to the model's dtypes.

    Raises what ``read_checkpoint`` raises, and CheckpointError when a key is missing, surplus or of another
    shape, or when a tensor holds NaN or infinity. The model is changed only when everything fits.
    """
    state = read_checkpoint(path)
    own: Mapping[str, Tensor] = model.state_dict()
    _check_fit(state, own, type(model).__name__, path)
    for key, tensor in state.items():
        if tensor.is_floating_point() != own[key].is_floating_point():
            raise CheckpointError(
                f"{path}: {key} is {tensor.dtype} in the file and {own[key].dtype} in the model"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {key} holds NaN or infinity. The training that wrote it diverged")
    model.load_state_dict(state, strict=True)


def _check_signature(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; give the checkpoint file in it")
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such checkpoint file. Check the path") from error
    except OSError as error:
        raise CheckpointError(
            f"{path}: the checkpoint cannot be read ({error.strerror}). Give a file you may read"
        ) from error
    if not start:
        raise CheckpointError(f"{path} is empty. Download it again")
    if start.startswith((_ZIP_SIGNATURE, _PICKLE_SIGNATURE)):
        return
    raise CheckpointError(
        f"{path} is not a torch checkpoint (it begins with {start!r}). "
        "Give a .pth file that torch.save wrote; a web page saved under that name is a common mistake"
    )


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is cut short or damaged; {path.stat().st_size} bytes are there ({reason}). "
        "Download it again, or save it again as a state dict"
    )


def _refused_globals(path: Path) -> list[str]:
    """The classes and functions that the file's pickles name and that are no part of tensors, in order."""
    asked: dict[str, None] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        with archive.open(name) as stream:
                            asked.update(dict.fromkeys(_globals(stream)))
        else:
            with path.open("rb") as stream:
                for _ in range(_LEGACY_PICKLES):
                    asked.update(dict.fromkeys(_globals(stream)))
    except (OSError, ValueError, zipfile.BadZipFile):
        pass  # a damaged file: what was found before the damage still counts
    return [name for name in asked if not _TENSOR_GLOBALS.fullmatch(name)]


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """Names in one pickle, found by disassembling it; nothing is imported or run."""
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        found = "an empty dict" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} holds {found} where a state dict (names to tensors) is expected")
    for key, value in content.items():
        if not isinstance(key, str) or not _is_plain(value):
            kind = f"a {value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                f"{path} is not a state dict: under {key!r} it holds {kind}, not a plain tensor. "
                "Save model.state_dict(), by itself or under the key 'state_dict'"
            )
    return content


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _rename(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for original, tensor in state.items():
        key = original.removeprefix("module.")
        if key in ("data_preprocessor.mean", "data_preprocessor.std"):
            continue
        if key.startswith("keypoint_head."):
            key = key.removeprefix("keypoint_")
        if key in renamed:
            raise CheckpointError(f"{path}: {original} and another key both mean {key}; one of them must go")
        renamed[key] = tensor
    return renamed


def _check_fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], model: str, path: Path) -> None:
    missing = [key for key in own if key not in state]
    surplus = [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and own[key].shape != state[key].shape]
    if not missing and not surplus and not misshapen:
        return
    counts = f"keys missing: {len(missing)}, surplus: {len(surplus)}, of another shape: {len(misshapen)}"
    lines = [
        f"{path} does not fit {model} ({len(own)} keys): {counts}. Is it the checkpoint of another model?"
    ]
    lines += _listed("missing", (_with_nearest(key, surplus, "the file") for key in missing), len(missing))
    lines += _listed("surplus", (_with_nearest(key, missing, "the model") for key in surplus), len(surplus))
    shapes = (
        f"{key}: {list(state[key].shape)} in the file, {list(own[key].shape)} in the model"
        for key in misshapen
    )
    lines += _listed("other shape", shapes, len(misshapen))
    raise CheckpointError("\n".join(lines))


def _listed(title: str, keys: Iterable[str], count: int) -> list[str]:
    lines = [f"  {title}: {key}" for _, key in zip(range(_SHOWN), keys, strict=False)]
    return lines + ([f"  {title}: and {count - _SHOWN} more"] if count > _SHOWN else [])


def _with_nearest(key: str, candidates: list[str], where: str) -> str:
    near = difflib.get_close_matches(key, candidates, 1, cutoff=0.7)
    return f"{key} (nearest in {where}: {near[0]})" if near else key
