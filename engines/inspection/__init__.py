"""What is in a graph and what became of it in an engine: precisions asked for and got, fusions, sizes."""

from .engine_report import EngineFile, EngineReport, LayerReport, inspect_variant
from .graph_summary import GraphSummary, summarise

__all__ = ["EngineFile", "EngineReport", "GraphSummary", "LayerReport", "inspect_variant", "summarise"]
