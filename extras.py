"""Which optional packages a command needs, asked for before it starts to work."""

import importlib.util
from collections.abc import Iterable

from .errors import MissingExtraError

# module -> optional dependency group of pyproject.toml that installs it
EXTRAS = {
    "cv2": "cpu",
    "onnxruntime": "cpu",
    "onnx": "export",
    "onnxscript": "export",
    "onnxslim": "export",
    "torch": "export",
    "faster_coco_eval": "bench",
    "matplotlib": "bench",
}

GRAPHS = ("onnx", "onnxruntime", "onnxslim")  # what reading and rewriting an ONNX file takes
NETWORKS = (*GRAPHS, "torch", "onnxscript")  # what exporting a torch network takes
MEASURING = ("onnx", "onnxruntime", "faster_coco_eval", "matplotlib")
SENSITIVITY = ("torch", "matplotlib")
LEARNING = SEARCHING = ("torch",)  # whatever the model is: both run its graph in torch
DRAWING = ("cv2",)


def require_all(modules: Iterable[str]) -> None:
    """Raise MissingExtraError that names every one of ``modules`` that is not installed, and the pip command.

    modules: keys of ``EXTRAS``. Nothing is imported, so that asking for torch costs no seconds.
    """
    missing = [module for module in dict.fromkeys(modules) if not _is_installed(module)]
    if missing:
        raise MissingExtraError(say_missing(missing))


def say_missing(modules: list[str]) -> str:
    """What is not installed, with the pip command. modules: keys of ``EXTRAS``, one at least."""
    return _say(modules, "is needed here and not installed")


def missing_extra(error: ImportError) -> MissingExtraError | None:
    """The error to show for a failed import of an optional package; None when it is no package of EXTRAS.

    For packages that are there and broken, which ``require_all`` cannot see.
    """
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    return MissingExtraError(_say([module], f"is needed here and could not be imported ({error})"))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a finder that refuses it, or a module without a spec
        return False


def _say(modules: list[str], what: str) -> str:
    groups = {EXTRAS[module] for module in modules}
    if len(groups) > 1:
        groups.discard("cpu")  # the other groups contain it
    verb = what if len(modules) == 1 else what.replace("is ", "are ", 1)
    return f"{', '.join(modules)} {verb}. Install with: pip install 'posedge[{','.join(sorted(groups))}]'"
