"""The parent's side of a build: starts the worker, listens, and ends it when time is up or Ctrl-C comes."""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .. import errors
from ..errors import BuildError, PosedgeError
from .determinism import start_repeatable
from .messages import BuildRequest, Built, Event, Failed, Parsing, Progressed, decode_event, encode_request

_WORKER = f"{__package__}.worker"
_LOG_LINES = 40
_LOG_LINES_IN_MESSAGE = 5
_CHUNK = 1 << 16
# how libraries, the loader and Python say that the system refused them memory
_NO_MEMORY = (
    "bad_alloc",
    "OutOfMemory",
    "out of memory",
    "MemoryError",
    "Cannot allocate",
    "failed to map",
    "start new thread",
    "Resource temporarily unavailable",
)


class WorkerCrash(BuildError):
    """The child died by a signal that nobody sent, or without a word: a fault that can be repeated.

    log: the last lines of the library's log.
    """

    def __init__(self, message: str, log: tuple[str, ...]) -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Outcome:
    """A finished build and the last lines of the library's log."""

    built: Built
    log: tuple[str, ...]


def run_worker(
    request: BuildRequest, time_limit_s: float, listen: Callable[[Event], None] = lambda event: None
) -> Outcome:
    """Do one request in a child process and wait for it; ``listen`` hears its events.

    The child is gone when this returns or raises, KeyboardInterrupt included; the output file is whatever
    the child left, so the caller gives a temporary one and decides its fate. The graph is not linted here.

    Raises BuildError when the library refuses the graph, needs more than ``time_limit_s`` or more memory
    than the request allows; WorkerCrash, a BuildError, when it crashes (the message names the signal) or says
    nothing; MissingExtraError when no library can be imported; OSError, with its errno, when the output file
    cannot be written.
    """
    conversation = _Conversation(request, listen)
    try:
        finished = conversation.run_until(time.monotonic() + time_limit_s)
    finally:
        status = conversation.end()
    if conversation.built is not None:
        return Outcome(conversation.built, tuple(conversation.log))
    if conversation.failure is not None:
        raise _as_exception(conversation.failure, request, conversation.log)
    if not finished:
        raise BuildError(
            f"{request.graph}: the build was stopped after its time limit of {time_limit_s:g} s, "
            f"{conversation.place()}. Give it a longer limit; if it never ends, {_cause(request)}."
            f"{conversation.last_words()}"
        )
    message = (
        f"{request.graph}: {_describe(status)}, {conversation.place()}. {_advice(status, request)}"
        f"{conversation.last_words()}"
    )
    if status == -signal.SIGKILL:
        raise BuildError(message)
    raise WorkerCrash(message, tuple(conversation.log))


class _Conversation:
    """One child, its two pipes, and what has come out of them."""

    def __init__(self, request: BuildRequest, listen: Callable[[Event], None]) -> None:
        self.built: Built | None = None
        self.failure: Failed | None = None
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        self._listen = listen
        self._last: Event | None = None
        self._rests: dict[int, bytes] = {}
        self._events, child_end = os.pipe()
        try:
            self._process = start_repeatable(
                [sys.executable, "-m", _WORKER, str(child_end), encode_request(request)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(child_end,),
                # a group of its own: Ctrl-C on the terminal reaches the parent alone, which ends the group
                start_new_session=True,
                # "python -m" would look for modules in the user's directory first
                cwd="/",
                env={**os.environ, "PYTHONPATH": _import_path(), "PYTHONSAFEPATH": "1"},
            )
        except OSError as error:
            os.close(self._events)
            raise BuildError(
                f"{request.graph}: the process for the build cannot be started ({error.strerror}). "
                "Close other programs and build again."
            ) from error
        except BaseException:
            os.close(self._events)
            raise
        finally:
            os.close(child_end)

    def run_until(self, deadline: float) -> bool:
        """Listen until the child closes both pipes; False when the deadline comes first."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._events, selectors.EVENT_READ, self._on_event)
            selector.register(self._process.stdout, selectors.EVENT_READ, self._on_log)
            while selector.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                for key, _ in selector.select(left):
                    chunk = os.read(key.fd, _CHUNK)
                    if chunk:
                        self._split(key.fd, chunk, key.data)
                    else:
                        selector.unregister(key.fileobj)
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> int:
        """Kill what is still there, close the pipes, and return the exit status (negative: a signal)."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        os.close(self._events)
        assert self._process.stdout is not None
        # a crash may cut the last line short: still worth showing in a log, though not as an event
        self._on_log(self._rests.pop(self._process.stdout.fileno(), b""))
        self._process.stdout.close()
        return status

    def place(self) -> str:
        """How far the child had come, for a message."""
        if isinstance(self._last, Parsing):
            return f"while it parsed the node {self._last.node}"
        if isinstance(self._last, Progressed):
            return f"in the builder's phase {self._last.phase!r}"
        return "before it came to the graph's nodes"

    def last_words(self) -> str:
        """The end of the log without its small talk, for a message."""
        lines = [line for line in self.log if not line.startswith("INFO")][-_LOG_LINES_IN_MESSAGE:]
        return "".join(["\nThe last lines of its log:", *(f"\n  {line}" for line in lines)]) if lines else ""

    def _split(self, descriptor: int, chunk: bytes, take: Callable[[bytes], None]) -> None:
        *lines, rest = (self._rests.get(descriptor, b"") + chunk).split(b"\n")
        self._rests[descriptor] = rest
        for line in lines:
            take(line)

    def _on_log(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self.log.append(text)

    def _on_event(self, line: bytes) -> None:
        event = decode_event(line)
        if isinstance(event, Built):
            self.built = event
        elif isinstance(event, Failed):
            self.failure = event
        else:
            self._last = event
        self._listen(event)


def _import_path() -> str:
    """The parent's import path: the child finds the same posedge and libraries, however installed."""
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path)


def _as_exception(failure: Failed, request: BuildRequest, log: Iterable[str]) -> Exception:
    if failure.errno is not None:
        return OSError(failure.errno, failure.message, request.output)
    limit = request.memory_limit_bytes
    if limit is not None and any(word in text for text in (failure.message, *log) for word in _NO_MEMORY):
        return BuildError(
            f"{failure.message}. The build had reached its memory limit of {_mib(limit)}: give it more, or "
            "lower the largest batch of the profile"
        )
    kind: type[PosedgeError] = getattr(errors, failure.error)
    return kind(failure.message)


def _describe(status: int) -> str:
    if status < 0:
        return f"the build crashed ({signal.Signals(-status).name})"
    return f"the build ended without a result (exit status {status})"


def _advice(status: int, request: BuildRequest) -> str:
    if status == -signal.SIGKILL:
        return (
            "Nothing in posedge killed it: the system does so when memory runs out. Free some memory, or "
            "lower the largest batch of the profile, and build again."
        )
    if request.memory_limit_bytes is not None:
        return (
            f"It ran under a memory limit of {_mib(request.memory_limit_bytes)}, on which libraries may "
            "crash: build again with more, or without a limit, to see whether that is the cause."
        )
    if status < 0:
        return (
            "This is a fault of the library, met with this graph. Simplify the graph (posedge deploy) or "
            "try another version of the library."
        )
    return "Its log says why."


def _cause(request: BuildRequest) -> str:
    if request.memory_limit_bytes is not None:
        # TensorRT-RTX 1.7.1 was seen to hang for ever when it was refused memory
        return f"its memory limit of {_mib(request.memory_limit_bytes)} may be the cause: give it more"
    return "the graph is the cause: simplify it (posedge deploy) and build again"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
