"""The child process of a build: ``python -m posedge.engines.worker EVENTS_FD REQUEST``.

It parses and builds in a process of its own because the parser crashes on some graphs, hangs on others and
cannot be interrupted: an exception raised in one of the builder's callbacks is swallowed. What it has to say
goes line by line to the file descriptor EVENTS_FD (see messages); standard error is a log for people.
"""

import ctypes
import os
import resource
import signal
import sys
import traceback

from ..errors import BuildError, PosedgeError
from .building import build, status_bytes
from .determinism import on_fresh_heap
from .flavours import flavour_named, import_first
from .listeners import Emit
from .messages import BuildRequest, Event, Failed, decode_request, encode_event

_PR_SET_PDEATHSIG = 1


def _emitter(descriptor: int) -> Emit:
    def emit(event: Event) -> bool:
        try:
            os.write(descriptor, encode_event(event))
        except BrokenPipeError:
            return False
        return True

    return emit


def _die_with_parent(parent: int) -> None:
    """Let the kernel end this process when the parent ends in a way that leaves it no time to do so."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _limit_memory(request: BuildRequest) -> None:
    """Let the kernel refuse memory beyond the request's limit, where it can.

    RLIMIT_DATA counts what the process may write to. RLIMIT_AS would count address space, of which CUDA
    reserves more than any machine has memory.

    The library is there already: refused memory while it is imported, it would seem not to be installed.
    Raises BuildError when it has taken as much as the limit.
    """
    size = request.memory_limit_bytes
    if size is None:
        return
    taken = status_bytes("VmData")
    if taken >= size:
        raise BuildError(
            f"{request.graph}: the library alone takes {taken / (1 << 20):.0f} MiB before any graph, and the "
            f"build's memory limit is {size / (1 << 20):.0f} MiB. Give it more"
        )
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or size < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def main(descriptor: str, text: str) -> None:
    """Do one request and leave without the library's teardown, which could spoil a finished build."""
    emit = _emitter(int(descriptor))
    request = decode_request(text)
    _die_with_parent(request.parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an answer here, not something to debug
    event: Event
    try:
        import_first([flavour_named(name) for name in request.flavours])  # into Python's own heap
        _limit_memory(request)
        event = on_fresh_heap(lambda: build(request, emit))
    except PosedgeError as error:
        event = Failed(type(error).__name__, str(error))
    except OSError as error:
        event = Failed("OSError", error.strerror or str(error), error.errno)
    except Exception as error:  # any other fault of the library: the log keeps its traceback
        traceback.print_exc()
        event = Failed("BuildError", f"{request.graph}: the build failed: {type(error).__name__}: {error}")
    emit(event)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
