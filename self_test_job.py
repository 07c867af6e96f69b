"""The self test of a bundle: its variants on the session that is here, the results in its receipt."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .benchmarks.place import backend_description
from .benchmarks.report.receipt import RECEIPT_FILE, read_receipt, write_receipt
from .benchmarks.report.results import NOT_TESTED
from .benchmarks.report.table import Table
from .benchmarks.self_test import SelfTest, self_test, tolerance_of
from .benchmarks.speed import NotMeasured
from .errors import BundleError
from .files import directory_lock, sha256_file
from .progress import SILENT, LabelledProgress, Progress
from .runtime.bundle import Bundle, open_bundle
from .runtime.bundle_index import RECEIPT
from .runtime.sealing import exchange, finish_exchange, next_name
from .runtime.sessions.onnxruntime import OnnxRuntimeSession


def run_self_test(
    bundle: Bundle, variants: Sequence[str], threads: int | None = None, progress: Progress = SILENT
) -> dict[str, SelfTest]:
    """Test variants of a bundle, by name, on onnxruntime's CPU session.

    Raises BundleError for an unknown variant or a changed file, and what the session raises.
    """
    found = {}
    for variant in variants:
        name = bundle.variant(variant).graph
        graph = bundle.read(name)

        def load(graph: bytes = graph) -> OnnxRuntimeSession:
            return OnnxRuntimeSession(graph, bundle.spec, threads)

        found[variant] = self_test(
            load,
            bundle.files[name].sha256,
            tolerance_of(variant),
            backend_description,
            progress=LabelledProgress(variant, progress),
        )
    return found


def keep_in_receipt(directory: Path, found: dict[str, SelfTest]) -> str | None:
    """Write the results into the bundle's receipt and seal it again; at every moment the bundle is valid.

    Returns the receipt's name, or None for a bundle without one. Raises BundleError for an unusable receipt
    and OutputError when the bundle cannot be written.
    """
    with directory_lock(directory):
        index = finish_exchange(directory, open_bundle(directory).index)
        bundle = Bundle(directory, index)
        receipt = bundle.named(RECEIPT)
        if receipt is None:
            return None
        report = read_receipt(bundle.path(receipt))
        variants = tuple(
            replace(variant, self_test=found.get(variant.name, variant.self_test))
            for variant in report.variants
        )
        write_receipt(replace(report, variants=variants), directory / next_name(receipt))
        exchange(directory, index, {receipt: RECEIPT})
        return receipt


def earlier_self_test(directory: Path, variant: str, graph: Path) -> SelfTest | NotMeasured:
    """What ``keep_in_receipt`` kept of a variant in an earlier bundle there, if its graph is the same."""
    try:
        found = read_receipt(directory / RECEIPT_FILE).variants
    except BundleError:  # none yet, or one of an older schema
        return NOT_TESTED
    test = next((earlier.self_test for earlier in found if earlier.name == variant), NOT_TESTED)
    return test if isinstance(test, SelfTest) and test.sha256 == sha256_file(graph) else NOT_TESTED


def table(found: dict[str, SelfTest]) -> Table:
    """The results for people."""
    header = ("variant", "rows differ", "batch differs", "rebuild differs", "allowed", "p50 ms", "spread", "")
    return Table("Self test", header, tuple((name, *_cells(test)) for name, test in found.items()))


def _cells(test: SelfTest) -> tuple[str, ...]:
    differences = (test.row_difference, test.batch_difference, test.rebuild_difference, test.tolerance)
    latencies = " ".join(f"{value:.1f}" for value in test.latency_ms) or "-"
    spread = "-" if test.latency_spread is None else f"{100 * test.latency_spread:.0f} %"
    shares = ("not finite" if value is None else f"{value:.1e}" for value in differences)
    return (*shares, latencies, spread, "FAILED" if test.failures else "ok")
