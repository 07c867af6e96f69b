"""What the parent and the child of a build say to each other: one JSON object each way, line by line."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ..errors import BuildError


@dataclass(frozen=True)
class BatchProfile:
    """The batch sizes an engine accepts (min to max) and the one it is tuned for (opt)."""

    min: int = 1
    opt: int = 8
    max: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise BuildError(
                f"batch profile min {self.min}, opt {self.opt}, max {self.max}: "
                "they must be positive and in this order"
            )


@dataclass(frozen=True)
class BuildRequest:
    """What the child is to do.

    graph, output: absolute paths of the ONNX file and of the file to fill with the engine.
    flavours: names to try, best first; the next one is tried only when one cannot be imported.
    parent: process id of the parent, whose end ends the child.
    """

    graph: str
    output: str
    flavours: tuple[str, ...]
    profile: BatchProfile
    parent: int


@dataclass(frozen=True)
class Parsing:
    """The parser has come to this node; the last of these before a crash names the culprit."""

    node: str


@dataclass(frozen=True)
class Progressed:
    """The build has come to ``fraction`` (0 to 1, never falling), in the phase of that name."""

    fraction: float
    phase: str


@dataclass(frozen=True)
class Built:
    """The engine lies in the output file. seconds: parsing and building, without starting Python."""

    flavour: str
    version: str
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Failed:
    """The build has failed. error: a class of posedge.errors, or "OSError" with its ``errno``."""

    error: str
    message: str
    errno: int | None = None


Event = Parsing | Progressed | Built | Failed

_EVENTS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Parsing, Progressed, Built, Failed)}


def encode_request(request: BuildRequest) -> str:
    """A request as one line of JSON."""
    return json.dumps(dataclasses.asdict(request))


def decode_request(text: str) -> BuildRequest:
    """The inverse of encode_request."""
    fields = json.loads(text)
    return BuildRequest(
        graph=fields["graph"],
        output=fields["output"],
        flavours=tuple(fields["flavours"]),
        profile=BatchProfile(**fields["profile"]),
        parent=fields["parent"],
    )


def encode_event(event: Event) -> bytes:
    """An event as one line of JSON, with its newline."""
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)}).encode() + b"\n"


def decode_event(line: bytes) -> Event:
    """The inverse of encode_event."""
    fields = json.loads(line)
    event: Event = _EVENTS[fields.pop("event")](**fields)
    return event
