"""The self test of a bundle: its engines where they run, else its graphs; the results in its receipt."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from .benchmarks.place import backend_description
from .benchmarks.report.receipt import RECEIPT_FILE, read_receipt, write_receipt
from .benchmarks.report.results import NOT_TESTED
from .benchmarks.report.table import Table
from .benchmarks.self_test import REBUILDS, SelfTest, self_test, tolerance_of
from .benchmarks.speed import NotMeasured
from .engine_record import options_of
from .engines import build_engine
from .errors import BuildError, BundleError
from .files import directory_lock, sha256_file
from .progress import SILENT, LabelledProgress, Progress
from .runtime.bundle import Bundle, EngineBuild, open_bundle, rebuild_command
from .runtime.bundle_index import RECEIPT
from .runtime.cuda.opening import target_with, what_a_bundle_misses
from .runtime.engine_files import engine_just_built, trusted_engine
from .runtime.sealing import exchange, finish_exchange, next_name
from .runtime.sessions.onnxruntime import OnnxRuntimeSession
from .runtime.sessions.tensorrt import TensorRTSession

_BUILD_LIMIT_S = 1800.0


def run_self_test(
    bundle: Bundle, variants: Sequence[str], threads: int | None = None, progress: Progress = SILENT
) -> dict[str, SelfTest]:
    """Test variants of a bundle, by name: the engine where it runs here, else the graph on onnxruntime.

    Which it was shows in ``measured_on`` and ``sha256``; why it was not the engine goes to ``progress``.
    threads: of onnxruntime.

    Raises BundleError for an unknown variant or a changed file, BuildError for an engine that cannot be built
    anew, and what the session raises.
    """
    found = {}
    for variant in variants:
        files, labelled = bundle.variant(variant), LabelledProgress(variant, progress)
        if files.built is None or files.engine is None:
            missing: str | None = "the variant has no engine"
        else:
            missing = what_a_bundle_misses(bundle, variant)
            if missing is None:
                found[variant] = _test_engine(bundle, variant, files.engine, files.built, labelled)
                continue
        labelled.note(f"its graph is tested, not an engine: {missing}")
        found[variant] = self_test(
            partial(OnnxRuntimeSession, bundle.read(files.graph), bundle.spec, threads),
            bundle.files[files.graph].sha256,
            tolerance_of(variant),
            backend_description,
            progress=labelled,
        )
    return found


def _test_engine(
    bundle: Bundle, variant: str, engine: str, built: EngineBuild, progress: Progress
) -> SelfTest:
    """Test a variant's engine beside engines that are built like it, each when the one before is closed."""
    library = built.target.library
    sealed = [trusted_engine(bundle, variant, target_with(library))]

    def load() -> TensorRTSession:
        # what is sealed comes first, so that rows and batches are its own
        content = sealed.pop() if sealed else _built_anew(bundle, variant, built, progress)
        return TensorRTSession(content, bundle.spec, library=library, where=f"the engine of {variant}")

    return self_test(
        load,
        bundle.files[engine].sha256,
        tolerance_of(variant),
        backend_description,
        rebuilds=1 + REBUILDS,
        progress=progress,
    )


def _built_anew(bundle: Bundle, variant: str, built: EngineBuild, progress: Progress) -> bytes:
    """An engine of the variant's graph; nothing of it stays on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{variant}.engine"
        try:
            build_engine(
                bundle.path(bundle.variant(variant).graph),
                path,
                options_of(built),
                flavour=built.target.library,
                time_limit_s=_BUILD_LIMIT_S,
                progress=progress,
            )
        except BuildError as error:  # what it says of a reproducer is gone with the folder
            said = str(error).splitlines()[0].rstrip(".: ")
            raise BuildError(
                f"{bundle.directory}: the self test builds the engine of {variant} anew, and that failed: "
                f"{said}. See all of it with: {rebuild_command(bundle.directory, variant)}"
            ) from error
        return engine_just_built(path)


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


def earlier_self_test(directory: Path, variant: str, files: Iterable[Path]) -> SelfTest | NotMeasured:
    """What ``keep_in_receipt`` kept of a variant in an earlier bundle there, if it is of one of ``files``."""
    try:
        found = read_receipt(directory / RECEIPT_FILE).variants
    except BundleError:  # none yet, or one of an older schema
        return NOT_TESTED
    test = next((earlier.self_test for earlier in found if earlier.name == variant), NOT_TESTED)
    known = isinstance(test, SelfTest) and test.sha256 in map(sha256_file, files)
    return test if known else NOT_TESTED


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
