"""What the parent and the child of a build say to each other: one JSON object each way, line by line."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .options import BatchProfile, BuildOptions


@dataclass(frozen=True)
class BuildRequest:
    """What the child is to do.

    graph, output: absolute paths of the ONNX file and of the file to fill with the engine.
    flavours: names to try, best first; the next one is tried only when one cannot be imported.
    parent: process id of the parent, whose end ends the child.
    memory_limit_bytes: how much memory the child may write to; None for no limit.
    """

    graph: str
    output: str
    flavours: tuple[str, ...]
    options: BuildOptions
    parent: int
    memory_limit_bytes: int | None = None


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
    """The engine lies in the output file.

    seconds: parsing and building, without starting Python.
    gpu_layers: with a DLA core, the names of the layers that fall back to the GPU.
    notes: what the user should hear of, a line each.
    """

    flavour: str
    version: str
    seconds: float
    peak_memory_bytes: int
    gpu_layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
    return json.dumps(dataclasses.asdict(request), default=str)  # paths


def decode_request(text: str) -> BuildRequest:
    """The inverse of encode_request."""
    fields = json.loads(text)
    fields["options"] = _decode_options(fields["options"])
    fields["flavours"] = tuple(fields["flavours"])
    return BuildRequest(**fields)


def _decode_options(fields: dict[str, Any]) -> BuildOptions:
    cache = fields["timing_cache"]
    fields["timing_cache"] = None if cache is None else Path(cache)
    fields["target_sms"] = tuple(fields["target_sms"])
    fields["profile"] = BatchProfile(**fields["profile"])
    return BuildOptions(**fields)


def encode_event(event: Event) -> bytes:
    """An event as one line of JSON, with its newline."""
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)}).encode() + b"\n"


def decode_event(line: bytes) -> Event:
    """The inverse of encode_event."""
    fields = json.loads(line)
    kind = _EVENTS[fields.pop("event")]
    # JSON has no tuples
    event: Event = kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    )
    return event
