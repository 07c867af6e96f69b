"""Engines of a bundle built anew, from the graphs in it, for what is here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .benchmarks.report.csv_file import write_csv
from .benchmarks.report.receipt import read_receipt, write_receipt
from .benchmarks.report.results import NOT_TESTED, MeasuredSpeed, Report, VariantReport
from .benchmarks.report.table import text
from .benchmarks.self_test import SelfTest
from .benchmarks.speed import NotMeasured
from .engine_record import index_entry, receipt_entry
from .engines import BatchProfile, BuildOptions, BuildResult, available_flavour, build_engine
from .files import directory_lock, remove_leftovers, write_text
from .progress import SILENT, Progress
from .runtime.bundle import Bundle, EngineBuild, open_bundle, open_index
from .runtime.bundle_index import ENGINE, RECEIPT, REPORT
from .runtime.sealing import exchange, finish_exchange, next_name

_NOT_SINCE = NotMeasured("the engine was built anew (posedge build) and has not been measured since")


@dataclass(frozen=True)
class Rebuilt:
    """A variant's new engine: its path inside the bundle, and how it was built."""

    variant: str
    engine: str
    build: EngineBuild
    result: BuildResult


def rebuild(
    directory: Path,
    variants: Sequence[str] = (),
    *,
    flavour: str | None = None,
    options: Callable[[BuildOptions], BuildOptions] = lambda usual: usual,
    time_limit_s: float = 1800.0,
    memory_limit_bytes: int | None = None,
    progress: Progress = SILENT,
) -> Iterator[Rebuilt]:
    """Build the engines of ``variants`` (all of them by default) anew, one after the other.

    The graphs and all other files are checked first; the engines that are to be replaced are not, so that a
    damaged one can be mended. ``options`` says how an engine is built, given the batch profile and the target
    SMs of the old one. Each finished engine is sealed before it is handed out, and the receipt with it, which
    then has no figure of the old engine any more. Until that very moment the old bundle is valid.

    Raises BundleError for what cannot be trusted, OutputError when another run works in the bundle or the
    disk is full, and what ``build_engine`` raises.
    """
    open_index(directory)  # before the lock, which would make the directory
    with directory_lock(directory):
        remove_leftovers(directory)
        index = finish_exchange(directory, open_index(directory).index)
        names = tuple(dict.fromkeys(variants)) or tuple(index.variants)
        chosen = [Bundle(directory, index).variant(name) for name in names]
        bundle = open_bundle(directory, unchecked=[files.engine for files in chosen if files.engine])
        receipt = bundle.named(RECEIPT)
        report = None if receipt is None else read_receipt(bundle.path(receipt))
        for name, files in zip(names, chosen, strict=True):
            how = options(_as_before(files.built, flavour))
            engine = files.engine or f"{name}.engine"
            result = build_engine(
                bundle.path(files.graph),
                bundle.path(next_name(engine)),
                how,
                flavour=flavour,
                time_limit_s=time_limit_s,
                memory_limit_bytes=memory_limit_bytes,
                progress=progress,
                final=bundle.path(engine),
            )
            rebuilt = Rebuilt(name, engine, index_entry(result, how), result)
            if report is not None:
                report = _updated(report, rebuilt, bundle.files[files.graph].sha256)
            bundle = _seal(bundle, rebuilt, report)
            yield rebuilt


def _as_before(built: EngineBuild | None, flavour: str | None) -> BuildOptions:
    """The batch profile of an engine, and its target SMs where the library is the same and takes any.

    The single SM of an engine that was built on a GPU was nobody's choice.
    """
    if built is None:
        return BuildOptions()
    profile, target = BatchProfile(*built.profile), built.target
    chosen = available_flavour(flavour)
    if target.portable or chosen.needs_gpu or chosen.name != target.library:
        return BuildOptions(profile)
    return BuildOptions(profile, target_sms=target.sms)


def _updated(report: Report, rebuilt: Rebuilt, graph_sha256: str) -> Report:
    """The receipt's report with the new engine; what was measured of the old one is measured no more."""
    old = next((variant for variant in report.variants if variant.name == rebuilt.variant), None)
    on_engine = old is not None and isinstance(old.engine_speed, MeasuredSpeed)  # and so all its figures

    def update(variant: VariantReport) -> VariantReport:
        compared = variant.name != report.reference
        if on_engine and compared and rebuilt.variant in (variant.name, report.reference):
            variant = replace(variant, drop_interval=_NOT_SINCE)
        if variant.name != rebuilt.variant:
            return variant
        if on_engine:
            variant = replace(
                variant, accuracy=_NOT_SINCE, session_speed=_NOT_SINCE, pipeline_speed=_NOT_SINCE
            )
        test = variant.self_test
        kept = isinstance(test, SelfTest) and test.sha256 == graph_sha256
        return replace(
            variant,
            engine=receipt_entry(rebuilt.result),
            engine_speed=_NOT_SINCE,
            self_test=test if kept else NOT_TESTED,
        )

    return replace(report, variants=tuple(update(variant) for variant in report.variants))


def _seal(bundle: Bundle, rebuilt: Rebuilt, report: Report | None) -> Bundle:
    roles = {rebuilt.engine: ENGINE}
    receipt = bundle.named(RECEIPT)
    if report is not None and receipt is not None:
        roles[receipt] = RECEIPT
        write_receipt(report, bundle.path(next_name(receipt)))
        # the forms of the report that tell of engines, where the bundle has them
        for name, write in (("report.csv", write_csv), ("report.txt", _write_text)):
            if name in bundle.files:
                roles[name] = REPORT
                write(report, bundle.path(next_name(name)))
    files = replace(bundle.variant(rebuilt.variant), engine=rebuilt.engine, built=rebuilt.build)
    return Bundle(bundle.directory, exchange(bundle.directory, bundle.index, roles, {rebuilt.variant: files}))


def _write_text(report: Report, path: Path) -> None:
    write_text(path, text(report))
