"""Reports of the inspection for people, as lines, and for machines, as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..lint.findings import Finding
from .engine_report import EngineReport, LayerReport
from .graph_summary import GraphSummary, shares

_OPERATORS_A_LINE = 8


def graph_lines(summary: GraphSummary) -> list[str]:
    """A graph's figures."""
    operators = [f"{count} {name}" for name, count in sorted(summary.operators.items(), key=_by_count)]
    first, more = operators[:_OPERATORS_A_LINE], operators[_OPERATORS_A_LINE:]
    others = f", {len(more)} other kinds" if more else ""
    unknown = sum(layer.macs is None for layer in summary.layers)
    gaps = f" (without {unknown} layers of unknown size)" if unknown else ""
    asked = shares_text(shares((layer.asked, layer.macs) for layer in summary.layers))
    return [
        f"opset        {summary.opset}, IR version {summary.ir_version}",
        *(f"input        {text}" for text in summary.inputs),
        *(f"output       {text}" for text in summary.outputs),
        f"nodes        {summary.nodes}: {', '.join(first)}{others}",
        f"parameters   {summary.parameters / 1e6:,.3f} M",
        f"MACs         {summary.macs / 1e6:,.1f} M an image{gaps}",
        f"asked for    {asked} of the MACs",
    ]


def finding_lines(findings: Sequence[Finding], hints: Sequence[Finding]) -> list[str]:
    """What is wrong, then what could be better; a sound graph says so."""
    lines = [f"findings     {len(findings) or 'none'}", *(f"  {finding}" for finding in findings)]
    return lines + ([f"hints        {len(hints)}", *(f"  {hint}" for hint in hints)] if hints else [])


def engine_lines(report: EngineReport) -> list[str]:
    """A variant: its head, then a line for each layer."""
    return [*head_lines(report), "", *_table(report.layers)]


def head_lines(report: EngineReport) -> list[str]:
    """Whether the engine does what the graph asks for."""
    size = "" if report.engine_bytes is None else f", {report.engine_bytes / 1e6:.1f} MB"
    engine = "none" if report.engine is None else f"{report.engine}{size}, built with {report.built_with}"
    lines = [
        f"variant      {report.variant}",
        f"engine       {engine}",
        f"told by      {report.source}",
        f"asked for    {shares_text(report.asked_shares)} of the MACs",
        f"runs in      {shares_text(report.got_shares)} of the MACs",
        f"lost INT8    {_lost(report)}",
    ]
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(report.operations.items(), key=_by_count))
    return lines + ([f"operations   {kinds}"] if kinds else [])


def shares_text(parts: Mapping[str, float]) -> str:
    """Such as "INT8 98.2 %, FP32 1.8 %", the largest first."""
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {100 * part:.1f} %" for name, part in ordered) or "nothing"


def graph_document(
    path: str, summary: GraphSummary | None, findings: Sequence[Finding], hints: Sequence[Finding]
) -> dict[str, Any]:
    """The same for machines; ``summary`` None where the graph is not sound."""
    return {
        "graph": path,
        "summary": None if summary is None else {**asdict(summary), "macs": summary.macs},
        "findings": [asdict(finding) for finding in findings],
        "hints": [asdict(hint) for hint in hints],
    }


def engine_document(report: EngineReport) -> dict[str, Any]:
    """A variant for machines."""
    return {
        **asdict(report),
        "asked_shares": report.asked_shares,
        "got_shares": report.got_shares,
        "lost_int8": [layer.node for layer in report.lost],
        "int8_not_known": report.unknown,
    }


def _lost(report: EngineReport) -> str:
    names = ", ".join(f"{layer.node} ({layer.got})" for layer in report.lost)
    asked = sum(layer.asked == "INT8" for layer in report.layers)
    if not asked:
        return "nothing was asked for in INT8"
    known = f"{len(report.lost)} of {asked} layers: {names}" if names else f"none of {asked} layers"
    return "not known" if report.unknown == asked else known + _gaps(report.unknown)


def _gaps(unknown: int) -> str:
    return f"; of {unknown} it is not known" if unknown else ""


def _table(layers: Iterable[LayerReport]) -> list[str]:
    rows = [("layer", "operator", "MACs, M", "asked", "got", "weights, KB", "computed by", "fused with")]
    rows += [
        (
            layer.node,
            layer.operator,
            "?" if layer.macs is None else f"{layer.macs / 1e6:.2f}",
            layer.asked or "?",
            layer.got or "?",
            "?" if layer.weight_bytes is None else f"{layer.weight_bytes / 1e3:.1f}",
            layer.operation or "?",
            " + ".join(layer.fused) or "-",
        )
        for layer in layers
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return ["  ".join([*map(str.ljust, row[:-1], widths), row[-1]]) for row in rows]


def _by_count(entry: tuple[str, int]) -> tuple[int, str]:
    return -entry[1], entry[0]
