"""The zoo as text: a listing for a terminal and the published figures in Markdown."""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from ..files import CACHE_VARIABLE, cache_directory
from .download import cached_path
from .zoo_entry import ClassificationFigures, PoseFigures, ZooEntry

_POSE_NOTE = (
    "COCO val2017 keypoints, flip test, boxes of a person detector (human AP 56.4), as mmpose publishes them."
)
_CLASSIFICATION_NOTE = "ImageNet-1k validation, one centre crop, as mmpretrain publishes them."

_POSE_HEADER = ("model", "input", "AP", "AP50", "AP75", "AR", "AR50")
_CLASSIFICATION_HEADER = ("model", "input", "top-1", "top-5")
_COST_HEADER = ("parameters", "MACs")


def listing(entries: Iterable[ZooEntry]) -> str:
    """One line a model: cost, published accuracy, and whether its official weights are here."""
    header = ("model", "task", "input", "parameters", "MACs", "published", "checkpoint", "in cache")
    rows = [
        (
            entry.name,
            entry.spec.task,
            _size(entry),
            *_cost(entry),
            str(entry.published),
            _file_name(entry),
            "yes" if cached_path(entry.checkpoint).is_file() else "no",
        )
        for entry in entries
    ]
    return "\n".join([*_columns([header, *rows], right=(3, 4)), "", _cache_line()])


def markdown(entries: Iterable[ZooEntry]) -> str:
    """Tables of the published figures, one a task."""
    entries = tuple(entries)
    pose = [
        (_link(entry), _size(entry), *map(_three, (it.ap, it.ap50, it.ap75, it.ar, it.ar50)), *_cost(entry))
        for entry in entries
        if isinstance(it := entry.published, PoseFigures)
    ]
    classification = [
        (_link(entry), _size(entry), f"{it.top1:.2%}", f"{it.top5:.2%}", *_cost(entry))
        for entry in entries
        if isinstance(it := entry.published, ClassificationFigures)
    ]
    again = [
        f"[{entry.name}]({entry.checkpoint_v1}) (AP {entry.published_ap_v1:.3f})"
        for entry in entries
        if entry.checkpoint_v1 is not None and entry.published_ap_v1 is not None
    ]
    blocks = []
    if pose:
        blocks += [_POSE_NOTE, _markdown_table((*_POSE_HEADER, *_COST_HEADER), pose)]
    if again:
        blocks.append(f"Trained again for mmpose 1.x, for --checkpoint: {', '.join(again)}.")
    if classification:
        header = (*_CLASSIFICATION_HEADER, *_COST_HEADER)
        blocks += [_CLASSIFICATION_NOTE, _markdown_table(header, classification)]
    return "\n\n".join(blocks)


def _size(entry: ZooEntry) -> str:
    """Height first, as the models' names have it."""
    width, height = entry.spec.input_wh
    return f"{height}x{width}"


def _cost(entry: ZooEntry) -> tuple[str, str]:
    return f"{entry.parameters / 1e6:.2f} M", f"{entry.macs / 1e9:.2f} G"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _file_name(entry: ZooEntry) -> str:
    return PurePosixPath(urlsplit(entry.checkpoint).path).name


def _link(entry: ZooEntry) -> str:
    return f"[{entry.name}]({entry.checkpoint})"


def _cache_line() -> str:
    return (
        f"Cache: {cache_directory()} ({CACHE_VARIABLE} moves it). The official weights are fetched when a "
        "model is first exported or deployed; a file in it is checked each time it is used."
    )


def _columns(rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _markdown_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """The first column to the left, numbers to the right."""
    rule = ("-", *("-:" for _ in header[1:]))
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))
