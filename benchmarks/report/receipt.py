"""receipt.json: the report for programs.

Keys, always all of them and always in the same order; ``docs/receipt.md`` describes each:

    schema, model, spec, data, calibration, versions, device, max_drop, reference, notes, warnings
    variants.NAME.ap, .ap_drop, .ap_drop_interval, .figures      accuracy
    variants.NAME.persons_per_second                     the session's, at its fastest batch size
    variants.NAME.latency_ms                             p50, p90, p99 of the session at its smallest batch
    variants.NAME.speed.{session,pipeline,engine}        all batch sizes
    variants.NAME.graph_bytes, .engine_bytes, .engine    sizes and how the engine was built
    variants.NAME.int8_share                             how much of the convolutions' work is in INT8
    variants.NAME.self_test                              what posedge verify --run found
    variants.NAME.measured_on                            for each figure above, with and on what
    variants.NAME.not_measured                           for each null above, why

A classifier's receipt says ``top1`` where this one says ``ap``, ``top1_drop`` for ``ap_drop``,
``top1_drop_interval`` for ``ap_drop_interval`` and ``images_per_second`` for ``persons_per_second``; its
``figures`` are ``top1`` and ``top5``, its ``data`` ``labels`` and ``images``.

A figure that was not measured is null.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import BundleError
from ...files import write_text
from ..self_test import SelfTest
from ..speed import NotMeasured, Speed
from .receipt_reader import SCHEMA, report_from
from .results import BuiltEngine, Interval, MeasuredAccuracy, MeasuredSpeed, Report, VariantReport, Wording

RECEIPT_FILE = "receipt.json"


def receipt_text(report: Report) -> str:
    """The receipt as JSON; the same text for the same report."""
    document = {
        "schema": SCHEMA,
        "model": report.model,
        "spec": report.spec.to_dict(),
        "data": asdict(report.data),
        "calibration": report.calibration,
        "versions": dict(sorted(report.versions.items())),
        "device": report.device,
        "max_drop": report.max_drop,
        "reference": report.reference,
        "variants": {variant.name: _variant(report, variant) for variant in report.variants},
        "notes": list(report.notes),
        "warnings": list(report.warnings),
    }
    # NaN is not JSON: a figure that is one must not get this far
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def write_receipt(report: Report, path: Path) -> None:
    """Write the receipt atomically. Raises OutputError."""
    write_text(path, receipt_text(report))


def read_receipt(path: Path) -> Report:
    """Read and check a receipt.

    Raises BundleError naming the key that is missing or wrong, or that does not follow from the others.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BundleError(f"{path}: the receipt cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise BundleError(f"{path}: the receipt is not JSON ({error})") from error
    report = report_from(document, str(path))
    _require_same(document, json.loads(receipt_text(report)), str(path))
    return report


def _require_same(document: Any, expected: Any, where: str) -> None:
    """Headlines, reasons and warnings are derived: they must be what the figures give."""
    if isinstance(document, dict) and isinstance(expected, dict):
        for key in {**expected, **document}:
            _require_same(document.get(key), expected.get(key), f"{where}: {key}")
    elif document != expected:
        raise BundleError(
            f"{where} is {document!r:.80} but the receipt's figures give {expected!r:.80}; "
            "it was changed by hand: measure the bundle again"
        )


def _variant(report: Report, variant: VariantReport) -> dict[str, Any]:
    figures = variant.accuracy.figures if isinstance(variant.accuracy, MeasuredAccuracy) else None
    engine = variant.engine if isinstance(variant.engine, BuiltEngine) else None
    session = variant.session_speed if isinstance(variant.session_speed, MeasuredSpeed) else None
    interval = variant.drop_interval if isinstance(variant.drop_interval, Interval) else None
    drop, words = report.drop(variant), report.wording
    return {
        words.key: variant.accuracy.headline if isinstance(variant.accuracy, MeasuredAccuracy) else None,
        f"{words.key}_drop": None if isinstance(drop, NotMeasured) else drop,
        f"{words.key}_drop_interval": [interval.low, interval.high] if interval else None,
        f"{words.unit}_per_second": session.fastest.persons_per_second if session else None,
        "latency_ms": asdict(session.smallest.latency_ms) if session else None,
        "int8_share": variant.int8_share,
        "graph_bytes": variant.graph_bytes,
        "engine_bytes": engine.engine_bytes if engine else None,
        "figures": asdict(figures) if figures else None,
        "engine": _engine(engine) if engine else None,
        "speed": {
            "session": _speeds(variant.session_speed, words.unit),
            "pipeline": _speeds(variant.pipeline_speed, words.unit),
            "engine": _speeds(variant.engine_speed, words.unit),
        },
        "self_test": _self_test(variant.self_test),
        "measured_on": _measured_on(variant, drop, words),
        "not_measured": _not_measured(variant, drop, words),
    }


def _engine(engine: BuiltEngine) -> dict[str, Any]:
    return {
        "flavour": engine.flavour,
        "version": engine.version,
        "build_seconds": engine.build_seconds,
        "gpu_layers": list(engine.gpu_layers),
    }


def _self_test(test: SelfTest | NotMeasured) -> dict[str, Any] | None:
    if isinstance(test, NotMeasured):
        return None
    values = {key: value for key, value in asdict(test).items() if key != "measured_on"}
    return {**values, "latency_ms": list(test.latency_ms), "passed": not test.failures}


def _speeds(speed: MeasuredSpeed | NotMeasured, unit: str) -> list[dict[str, Any]] | None:
    if isinstance(speed, NotMeasured):
        return None
    rate = "persons_per_second"
    return [
        {f"{unit}_per_second" if key == rate else key: value for key, value in asdict(entry).items()}
        for entry in speed.by_batch
    ]


def _sections(
    variant: VariantReport, drop: float | NotMeasured, words: Wording
) -> list[tuple[tuple[str, ...], MeasuredAccuracy | MeasuredSpeed | BuiltEngine | SelfTest | NotMeasured]]:
    """Which keys of the receipt come from which part of the report."""
    accuracy, interval = variant.accuracy, variant.drop_interval
    return [
        ((words.key, "figures"), accuracy),
        ((f"{words.key}_drop",), drop if isinstance(drop, NotMeasured) else accuracy),
        ((f"{words.key}_drop_interval",), interval if isinstance(interval, NotMeasured) else accuracy),
        ((f"{words.unit}_per_second", "latency_ms", "speed.session"), variant.session_speed),
        (("speed.pipeline",), variant.pipeline_speed),
        (("speed.engine",), variant.engine_speed),
        (("engine_bytes", "engine"), variant.engine),
        (("self_test",), variant.self_test),
    ]


def _measured_on(variant: VariantReport, drop: float | NotMeasured, words: Wording) -> dict[str, str]:
    places = {}
    for keys, part in _sections(variant, drop, words):
        if not isinstance(part, NotMeasured):
            place = part.built_on if isinstance(part, BuiltEngine) else part.measured_on
            places.update(dict.fromkeys(keys, place))
    return places


def _not_measured(variant: VariantReport, drop: float | NotMeasured, words: Wording) -> dict[str, str]:
    reasons = {}
    for keys, part in _sections(variant, drop, words):
        if isinstance(part, NotMeasured):
            reasons.update(dict.fromkeys(keys, part.reason))
    if isinstance(variant.accuracy, MeasuredAccuracy):
        for key, value in asdict(variant.accuracy.figures).items():
            if value is None:
                reasons[f"figures.{key}"] = "no person of this size was to be found"
    if isinstance(variant.session_speed, MeasuredSpeed):
        reasons.update(_too_few_samples("latency_ms", variant.session_speed.smallest))
    if isinstance(variant.self_test, SelfTest):
        for key, value in asdict(variant.self_test).items():
            if value is None:
                reasons[f"self_test.{key}"] = "outputs are not finite"
    for key in ("session", "pipeline", "engine"):
        speed = getattr(variant, f"{key}_speed")
        if isinstance(speed, MeasuredSpeed):
            for index, entry in enumerate(speed.by_batch):
                reasons.update(_too_few_samples(f"speed.{key}.{index}.latency_ms", entry))
    return reasons


def _too_few_samples(key: str, speed: Speed) -> dict[str, str]:
    reason = f"too few samples ({speed.samples}) for this percentile"
    latencies = asdict(speed.latency_ms)
    return {f"{key}.{name}": reason for name, value in latencies.items() if value is None}
