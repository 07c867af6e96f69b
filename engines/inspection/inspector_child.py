"""TensorRT's engine inspector, in a process of its own: ``python -m ... TARGET``, with the engine as input.

Loading an engine is running code, which may crash; a report of it must not crash with it. It needs the GPU
that the engine was built for. The child gets bytes and no path, so that what is loaded is what was checked.
It loads nothing that was built for another version or another device: it has the library, which knows its own
version where the package's metadata are missing, as those of a system package may be.
"""

import json
import os
import subprocess
import sys
from typing import Any

from ...runtime.target import Target, mismatch, target_from_dict, target_here, target_to_dict
from ..flavours import flavour_named, import_first
from .engine_layers import Reading
from .inspector_json import read_inspector

_TIME_LIMIT_S = 120.0
_REFUSED = 3


def ask_inspector(engine: bytes, built: Target, time_limit_s: float = _TIME_LIMIT_S) -> Reading:
    """What the library's inspector says of an engine, or why it says nothing.

    engine: its hash must have been checked, as ``Bundle.read`` does. built: what it was built for.
    """
    flavour = flavour_named(built.library)
    # "python -m" would look for modules in the user's directory first, hence "/"
    command = [sys.executable, "-m", f"{__package__}.inspector_child", json.dumps(target_to_dict(built))]
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd="/",
            input=engine,
            capture_output=True,
            timeout=time_limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Reading(None, f"not known: {flavour.module} did not load the engine in {time_limit_s:g} s")
    answer = done.stdout.decode("utf-8", "replace")
    if done.returncode == 0:
        return read_inspector(answer, f"the engine inspector of {flavour.module}")
    said = answer.strip() if done.returncode == _REFUSED else ""
    reason = said or f"{flavour.module} failed to load the engine (exit status {done.returncode})"
    return Reading(None, f"not known: {reason}")


def main(built_for: str) -> tuple[int, str]:
    """Exit status 0 and the inspector's JSON, or another and what is wrong on one line."""
    built = target_from_dict(json.loads(built_for))
    try:
        flavour, library = import_first([flavour_named(built.library)])
    except Exception as error:  # a missing or broken library; the report says which
        return _REFUSED, str(error).splitlines()[0]
    here = target_here(flavour.name, library.__version__)
    reason = mismatch(built, here)
    if reason is not None:
        return _REFUSED, f"{reason} (built: {built}; here: {here})"
    trt: Any = library
    loaded = trt.Runtime(_logger(trt)).deserialize_cuda_engine(sys.stdin.buffer.read())
    if loaded is None:
        problem = (
            f"{flavour.module} cannot load the engine here; its inspector needs the GPU it was built for"
        )
        return _REFUSED, problem
    inspector = loaded.create_engine_inspector()
    return 0, str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the library has no types
        """Writes at once, so that a crash loses nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            print(f"{severity.name}: {text}", file=sys.stderr, flush=True)

    return Log()


if __name__ == "__main__":
    # what the library prints goes to standard error, so that standard output holds the answer alone
    answer = os.dup(1)
    os.dup2(2, 1)
    code, said = main(*sys.argv[1:])
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        stream.write(said)
    os._exit(code)  # without the library's teardown, which needs the GPU too
