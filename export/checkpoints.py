"""Checkpoint files become state dicts, and state dicts become weights of a model.

Nothing in a file is ever executed: torch's restricted unpickler (``weights_only``) makes tensors and plain
containers; where it meets anything else, ``unpickle`` reads the file and leaves the rest unmade.
"""

import difflib
import pickle
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, require
from ..progress import SILENT, Progress
from .inert import Inert
from .unpickle import read_inertly
from .zoo import ZOO, build_model

_PICKLE_SIGNATURE = b"\x80"  # legacy files, of torch before 1.6, are pickles one after the other
_ZIP_SIGNATURE = b"PK"
_SAFETENSORS_HEADER = 8  # bytes that give the length of the JSON text behind them

_SHOWN = 4  # classes in a note
_SHOWN_KEYS = 20  # of each kind in a message; the counts say how many there are


def read_checkpoint(path: Path, progress: Progress = SILENT) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint file, its keys as mmpose 1.x names them.

    Reads torch's legacy and zip formats, a dict that holds ``state_dict`` or a bare state dict; and
    safetensors. A leading ``module.`` is stripped, mmpose 0.x's ``keypoint_head.`` becomes ``head.``, and
    ``data_preprocessor.mean`` and ``.std`` are dropped, as mmpose 1.x does on load. Tensors are on the CPU
    in the file's order (safetensors: in its own) and dtype.

    Objects of other classes beside the state dict, such as a training's configuration, are neither made nor
    executed; a note names them.

    Raises CheckpointError when the file is missing, empty, cut short or no checkpoint, when its weights
    depend on anything but tensors and plain containers, or its pickle asks for what runs code (nothing is
    executed; the message names what it asked for), or when it holds no state dict. MissingExtraError
    for a safetensors file where safetensors is not installed.
    """
    path = Path(path)
    if _is_safetensors(path):
        return _rename(_state_dict(_read_safetensors(path), path), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickle protocols, which either load or do not
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, UnicodeDecodeError):
        return _rename(_read_other_objects(path, progress), path)
    except MemoryError as error:
        raise _no_memory(path) from error
    except Exception as error:  # torch raises whatever its readers meet in a damaged file
        raise _damaged(path, f"torch: {_first_line(error)}") from error
    return _rename(_state_dict(content, path), path)


def load_checkpoint(
    model: nn.Module, path: Path, progress: Progress = SILENT, name: str | None = None
) -> None:
    """Load a checkpoint file into ``model``, key by key, converted to the model's dtypes.

    ``name`` is what messages call the model; without one it is called by its class.

    Raises what ``read_checkpoint`` raises, and CheckpointError when a key is missing, surplus or of another
    shape (the message says which model of the zoo the file fits), or when a tensor holds NaN or infinity.
    The model is changed only when everything fits.
    """
    state = read_checkpoint(path, progress)
    own: Mapping[str, Tensor] = model.state_dict()
    _check_fit(state, own, name or type(model).__name__, path)
    for key, tensor in state.items():
        if tensor.is_floating_point() != own[key].is_floating_point():
            raise CheckpointError(
                f"{path}: {key} is {tensor.dtype} in the file and {own[key].dtype} in the model"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {key} holds NaN or infinity. The training that wrote it diverged")
    model.load_state_dict(state, strict=True)


def fitting_models(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the zoo's models whose keys and shapes are those of ``state``."""
    shapes = {key: tensor.shape for key, tensor in state.items()}
    return [name for name in ZOO if _zoo_shapes(name) == shapes]


@cache  # building all of them takes seconds, and the zoo does not change
def _zoo_shapes(name: str) -> dict[str, torch.Size]:
    with torch.device("meta"):  # shapes without memory
        return {key: tensor.shape for key, tensor in build_model(name).state_dict().items()}


def _is_safetensors(path: Path) -> bool:
    """Look at the first bytes; raise CheckpointError for what is no checkpoint file at all."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; give the checkpoint file in it")
    try:
        with path.open("rb") as stream:
            start = stream.read(_SAFETENSORS_HEADER + 1)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such checkpoint file. Check the path") from error
    except OSError as error:
        raise CheckpointError(
            f"{path}: the checkpoint cannot be read ({error.strerror}). Give a file you may read"
        ) from error
    if not start:
        raise CheckpointError(f"{path} is empty. Download it again")
    if start.endswith(b"{") and len(start) > _SAFETENSORS_HEADER:
        return True
    if not start.startswith((_ZIP_SIGNATURE, _PICKLE_SIGNATURE)):
        raise CheckpointError(
            f"{path} is not a torch checkpoint (it begins with {start[:8]!r}). "
            "Give a .pth file that torch.save wrote, or a .safetensors file; a web page saved under that "
            "name is a common mistake"
        )
    return False


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    require("safetensors", "export")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except MemoryError as error:
        raise _no_memory(path) from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, f"safetensors: {_first_line(error)}") from error


def _read_other_objects(path: Path, progress: Progress) -> dict[str, Tensor]:
    """The state dict of a file that holds more than tensors and plain containers."""
    try:
        read = read_inertly(path)
    except CheckpointError:
        raise
    except MemoryError as error:
        raise _no_memory(path) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, f"its pickle cannot be read: {_first_line(error)}") from error
    state = _state_dict(read.content, path)
    names = list(read.unknown)
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        progress.note(
            f"{path.name}: beside the weights it holds objects of {', '.join(names[:_SHOWN])}{more}; "
            "they were left unmade, nothing was executed"
        )
    return state


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _no_memory(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: there is not enough memory to load it")


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is cut short or damaged; {path.stat().st_size} bytes are there ({reason}). "
        "Download it again, or save it again as a state dict"
    )


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and "state_dict" in content:
        content = content["state_dict"]
    _check_made(content, path)
    if not isinstance(content, dict) or not content:
        found = "an empty dict" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} holds {found} where a state dict (names to tensors) is expected")
    for key, value in content.items():
        _check_made(key, path)
        _check_made(value, path)
        if not isinstance(key, str) or not _is_plain(value):
            kind = f"a {value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                f"{path} is not a state dict: under {key!r} it holds {kind}, not a plain tensor. "
                "Save model.state_dict(), by itself or under the key 'state_dict'"
            )
    return content


def _check_made(value: object, path: Path) -> None:
    """Refuse a placeholder where the weights should be."""
    if isinstance(value, Inert) or (isinstance(value, type) and issubclass(value, Inert)):
        raise CheckpointError(
            f"{path}: its weights depend on {value.asked_for}; a state dict may hold only tensors and plain "
            "containers. Nothing was executed. Save it alone, where that is installed: "
            "torch.save({'state_dict': model.state_dict()}, file)"
        )


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
    fits = fitting_models(state)
    hint = f"It fits {' and '.join(fits)}" if fits else "It fits no model of the zoo"
    lines = [f"{path} does not fit {model} ({len(own)} keys): {counts}. {hint}"]
    lines += _listed(
        "missing", (_with_nearest(key, surplus, state, "the file") for key in missing), len(missing)
    )
    lines += _listed(
        "surplus", (_with_nearest(key, missing, own, "the model") for key in surplus), len(surplus)
    )
    shapes = (_with_shapes(key, state, own) for key in misshapen)
    lines += _listed("other shape", shapes, len(misshapen))
    raise CheckpointError("\n".join(lines))


def _listed(title: str, keys: Iterable[str], count: int) -> list[str]:
    lines = [f"  {title}: {key}" for _, key in zip(range(_SHOWN_KEYS), keys, strict=False)]
    return lines + ([f"  {title}: and {count - _SHOWN_KEYS} more"] if count > _SHOWN_KEYS else [])


def _with_nearest(key: str, unmatched: list[str], others: Iterable[str], where: str) -> str:
    """A key that has no match itself is the likelier one; else any."""
    title = f"nearest in {where}"
    return key + (_nearest(key, unmatched, title) or _nearest(key, list(others), title))


def _with_shapes(key: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    expected = own[key].shape
    alike = [other for other in state if state[other].shape == expected]
    shapes = f"{key}: {list(state[key].shape)} in the file, {list(expected)} in the model"
    return shapes + _nearest(key, alike, "nearest of that shape in the file")


def _nearest(key: str, candidates: list[str], title: str) -> str:
    near = difflib.get_close_matches(key, candidates, 1, cutoff=0.7)
    return f" ({title}: {near[0]})" if near else ""
