"""What the library calls back while it works: its log and its progress monitor, turned into events."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from .library import Library
from .messages import Event, Parsing, Progressed
from .phases import PhaseFraction

if TYPE_CHECKING:
    import tensorrt as trt

_PARSING = "Parsing node: "
_PROGRESS_STEP = 0.01

Emit = Callable[[Event], bool]  # says whether somebody still listens


def make_logger(library: Library, emit: Emit, errors: list[str]) -> "trt.ILogger":
    """A logger that writes to standard error and adds the texts of errors to ``errors``."""
    severities = library.ILogger

    class Log(library.ILogger):  # type: ignore[name-defined, misc]  # which class it is shows at run time
        """Writes messages out at once, so that a crash loses none."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: "trt.ILogger.Severity", msg: str) -> None:
            if int(severity) <= int(severities.INFO):
                print(f"{severity.name}: {msg}", file=sys.stderr, flush=True)
            elif msg.startswith(_PARSING):
                emit(Parsing(msg.removeprefix(_PARSING)))
            if int(severity) <= int(severities.ERROR):
                errors.append(msg)

    return Log()


def make_monitor(library: Library, emit: Emit) -> "trt.IProgressMonitor":
    """A progress monitor whose phases become one fraction; without a listener it cancels the build."""

    class Monitor(library.IProgressMonitor):  # type: ignore[name-defined, misc]  # as above
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self._phases = PhaseFraction()
            self._said = 0.0
            self._heard = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._heard = emit(
                Progressed(self._phases.start(phase_name, parent_phase, num_steps), phase_name)
            )

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._say(self._phases.step(phase_name, step), phase_name)
            return self._heard

        def phase_finish(self, phase_name: str) -> None:
            self._say(self._phases.finish(phase_name), phase_name)

        def _say(self, fraction: float, phase: str) -> None:
            # thousands of steps a second: only what a person could see is worth a line
            if fraction - self._said >= _PROGRESS_STEP:
                self._said = fraction
                self._heard = emit(Progressed(fraction, phase))

    return Monitor()
