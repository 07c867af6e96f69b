"""From the JSON of a receipt back to a Report, with every key that a report is made of checked."""

import math
from dataclasses import dataclass, fields
from typing import Any

from ...errors import BundleError, GraphError
from ...runtime.spec import spec_from_dict
from ..coco import CocoFigures
from ..imagenet import ImageNetFigures
from ..self_test import SelfTest
from ..speed import NotMeasured, Percentiles, Speed
from .results import (
    WORDINGS,
    BuiltEngine,
    EvaluatedData,
    EvaluatedImages,
    Interval,
    MeasuredAccuracy,
    MeasuredSpeed,
    Report,
    VariantReport,
    Wording,
)

SCHEMA = 4


@dataclass(frozen=True)
class _Object:
    """A JSON object with the place where it stands, for messages."""

    values: dict[str, Any]
    where: str

    def take(self, key: str, *kinds: type | None) -> Any:
        """The value of ``key``, which must be there and of one of ``kinds`` (None allows null)."""
        if key not in self.values:
            raise BundleError(f"{self.where}: the key {key!r} is missing; measure the bundle again")
        value = self.values[key]
        wanted = tuple(type(None) if kind is None else kind for kind in kinds)
        number = float in wanted and isinstance(value, int | float) and not isinstance(value, bool)
        boolean = isinstance(value, bool) and bool not in wanted
        if not (number or isinstance(value, wanted)) or boolean or (number and not math.isfinite(value)):
            names = " or ".join("null" if kind is None else kind.__name__ for kind in kinds)
            raise BundleError(f"{self.where}: {key} should be {names}, not {value!r:.60}")
        return float(value) if number else value

    def child(self, key: str) -> "_Object":
        return _Object(self.take(key, dict), f"{self.where}: {key}")


def report_from(document: object, where: str) -> Report:
    """The report that a receipt tells. Raises BundleError naming the key that is missing or wrong."""
    if not isinstance(document, dict):
        raise BundleError(f"{where}: a receipt is a JSON object, this is {type(document).__name__}")
    top = _Object(document, where)
    if top.take("schema", int) != SCHEMA:
        raise BundleError(
            f"{where}: the receipt has schema {document['schema']}, this posedge reads {SCHEMA}; "
            "read it with the posedge that wrote it, or measure again"
        )
    variants = top.child("variants")
    try:
        spec = spec_from_dict(top.take("spec", dict), f"{where}: spec")
    except GraphError as error:
        raise BundleError(str(error)) from error
    words = WORDINGS[spec.task]
    return Report(
        model=top.take("model", str),
        spec=spec,
        data=_data(top.child("data"), words),
        calibration=top.take("calibration", str),
        versions=_texts(top.child("versions")),
        device=top.take("device", str),
        max_drop=top.take("max_drop", float),
        variants=tuple(_variant(name, variants.child(name), words) for name in variants.values),
        notes=_lines(top, "notes"),
        reference=top.take("reference", str),
    )


def _data(entry: _Object, words: Wording) -> EvaluatedData | EvaluatedImages:
    if words.unit == "images":
        return EvaluatedImages(entry.take("labels", str), entry.take("images", int))
    return EvaluatedData(
        entry.take("annotations", str),
        entry.take("images", int),
        entry.take("persons", int),
        entry.take("boxes", str),
        entry.take("flip_test", bool),
    )


def _variant(name: str, entry: _Object, words: Wording) -> VariantReport:
    speed = entry.child("speed")
    return VariantReport(
        name=name,
        graph_bytes=entry.take("graph_bytes", int),
        accuracy=_accuracy(entry, words),
        engine=_engine(entry),
        session_speed=_speed(entry, speed, "session", words),
        pipeline_speed=_speed(entry, speed, "pipeline", words),
        engine_speed=_speed(entry, speed, "engine", words),
        drop_interval=_interval(entry, f"{words.key}_drop_interval"),
        self_test=_self_test(entry),
        int8_share=_share(entry),
    )


def _share(entry: _Object) -> float:
    share: float = entry.take("int8_share", float)
    if not 0 <= share <= 1:
        raise BundleError(f"{entry.where}: int8_share should be from 0 to 1, not {share:g}")
    return share


def _accuracy(entry: _Object, words: Wording) -> MeasuredAccuracy | NotMeasured:
    if entry.take("figures", dict, None) is None:
        return _reason(entry, words.key)
    figures, place = entry.child("figures"), entry.child("measured_on").take(words.key, str)
    if words.unit == "images":
        found = ImageNetFigures(figures.take("top1", float), figures.take("top5", float))
        return MeasuredAccuracy(found, place)
    optional = {"ap_medium", "ap_large", "ar_medium", "ar_large"}
    values = [
        figures.take(field.name, float, *((None,) if field.name in optional else ()))
        for field in fields(CocoFigures)
    ]
    return MeasuredAccuracy(CocoFigures(*values), place)


def _interval(entry: _Object, key: str) -> Interval | NotMeasured:
    ends = entry.take(key, list, None)
    if ends is None:
        return _reason(entry, key)
    if len(ends) != 2:
        raise BundleError(f"{entry.where}: {key} should be two numbers, low and high, not {ends!r:.60}")
    low, high = (_Object({key: end}, entry.where).take(key, float) for end in ends)
    if low > high:
        raise BundleError(f"{entry.where}: {key} should begin with its lower end, not {ends!r:.60}")
    return Interval(low, high)


def _self_test(entry: _Object) -> SelfTest | NotMeasured:
    if entry.take("self_test", dict, None) is None:
        return _reason(entry, "self_test")
    test = entry.child("self_test")
    latencies = test.take("latency_ms", list)
    return SelfTest(
        test.take("sha256", str),
        test.take("batch", int),
        test.take("row_difference", float, None),
        test.take("batch_difference", float, None),
        test.take("rebuild_difference", float, None),
        test.take("tolerance", float),
        tuple(_Object({"latency_ms": value}, test.where).take("latency_ms", float) for value in latencies),
        entry.child("measured_on").take("self_test", str),
    )


def _engine(entry: _Object) -> BuiltEngine | NotMeasured:
    if entry.take("engine", dict, None) is None:
        return _reason(entry, "engine_bytes")
    engine = entry.child("engine")
    return BuiltEngine(
        entry.take("engine_bytes", int),
        engine.take("build_seconds", float),
        engine.take("flavour", str),
        engine.take("version", str),
        entry.child("measured_on").take("engine_bytes", str),
        _lines(engine, "gpu_layers"),
    )


def _speed(entry: _Object, speed: _Object, key: str, words: Wording) -> MeasuredSpeed | NotMeasured:
    records = speed.take(key, list, None)
    if records is None:
        return _reason(entry, f"speed.{key}")
    if not records:
        raise BundleError(f"{speed.where}: {key} is an empty list; null says that nothing was measured")
    parts = [_Object({"entry": record}, f"{speed.where}: {key} {i}") for i, record in enumerate(records)]
    place = entry.child("measured_on").take(f"speed.{key}", str)
    return MeasuredSpeed(tuple(_one_speed(part.child("entry"), words.unit) for part in parts), place)


def _one_speed(entry: _Object, unit: str) -> Speed:
    latency = entry.child("latency_ms")
    return Speed(
        entry.take("batch", int),
        Percentiles(
            latency.take("p50", float), latency.take("p90", float, None), latency.take("p99", float, None)
        ),
        entry.take(f"{unit}_per_second", float),
        entry.take("samples", int),
    )


def _reason(entry: _Object, key: str) -> NotMeasured:
    return NotMeasured(entry.child("not_measured").take(key, str))


def _texts(entry: _Object) -> dict[str, str]:
    return {key: entry.take(key, str) for key in entry.values}


def _lines(entry: _Object, key: str) -> tuple[str, ...]:
    lines = entry.take(key, list)
    if not all(isinstance(line, str) for line in lines):
        raise BundleError(f"{entry.where}: {key} should be a list of texts")
    return tuple(lines)
