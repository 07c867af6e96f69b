"""`posedge verify`: every file of a bundle against its seal; with --run, whether its variants run well."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import count
from .errors import SessionError

if TYPE_CHECKING:
    from .runtime.bundle import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge verify`."""
    parser.set_defaults(run=run)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--run",
        dest="self_test",
        action="store_true",
        help="run every variant on random inputs too, its engine where that runs here, and keep the "
        "results in the receipt",
    )
    parser.add_argument("--variant", action="append", default=[], help="only this one, with --run")
    parser.add_argument("--threads", type=count, help="threads of the CPU session (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Check, say what is there, and test if asked to."""
    from .runtime.bundle import open_bundle

    bundle = open_bundle(options.bundle)
    for line in _listing(bundle):
        print(line)
    print(f"{bundle.directory}: every file is as it was sealed (variants: {', '.join(bundle.variants)})")
    if options.self_test:
        _self_test(bundle, options)
    return 0


def _listing(bundle: "Bundle") -> list[str]:
    """A line for each file, and for each engine what it was built for."""
    widths = [max(len(text) for text in column) for column in zip(*_cells(bundle), strict=True)]
    rows = (zip(cells, widths, strict=True) for cells in _cells(bundle))
    lines = ["  ".join(text.ljust(width) for text, width in row).rstrip() for row in rows]
    for files in bundle.variants.values():
        if files.built is not None:
            lines.append(f"{files.engine} was built for {files.built.target}")
    return lines


def _cells(bundle: "Bundle") -> list[tuple[str, ...]]:
    return [
        (name, file.role, f"{file.bytes} bytes", f"SHA-256 {file.sha256[:16]}...")
        for name, file in bundle.files.items()
    ]


def _self_test(bundle: "Bundle", options: argparse.Namespace) -> None:
    from .benchmarks.report.table import plain
    from .progress import for_terminal
    from .self_test_job import keep_in_receipt, run_self_test, table

    with for_terminal() as progress:
        found = run_self_test(bundle, options.variant or list(bundle.variants), options.threads, progress)
    print(f"\n{plain(table(found))}")
    for place in dict.fromkeys(test.measured_on for test in found.values()):
        names = ", ".join(name for name, test in found.items() if test.measured_on == place)
        print(f"{names} tested with {place}")
    receipt = keep_in_receipt(bundle.directory, found)
    print(f"Kept in {receipt}." if receipt else "The bundle has no receipt to keep this in.")
    failures = [f"{name}: {failure}" for name, test in found.items() for failure in test.failures]
    if failures:
        raise SessionError(
            f"{bundle.directory}: the self test failed. {'; '.join(failures)}. Do not deploy this variant; "
            "build its engine anew, or take another version of the library"
        )
