"""`posedge verify`: every file of a bundle against its seal; with --run, whether its variants run well."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import count
from .errors import BuildError, MissingExtraError, SessionError

if TYPE_CHECKING:
    from .runtime.bundle import Bundle
    from .runtime.target import Target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge verify`."""
    parser.set_defaults(
        run=partial(run, parser), interrupted="The bundle is as it was; no result of the self test was kept."
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--run",
        dest="self_test",
        action="store_true",
        help="run every variant on random inputs too, its engine where that runs here, and keep the "
        "results in the receipt",
    )
    parser.add_argument(
        "--variant", action="append", default=[], help="only this one, several times; with --run"
    )
    parser.add_argument("--threads", type=count, help="threads of the CPU session, with --run (default: all)")


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Check, say what is there, and test if asked to."""
    from .runtime.bundle import open_bundle

    if not options.self_test and (options.variant or options.threads is not None):
        parser.error("--variant and --threads go with --run; without it every file is checked")
    bundle = open_bundle(options.bundle)
    for line in (*_listing(bundle), *_notes(bundle)):
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


def _notes(bundle: "Bundle") -> list[str]:
    """For each engine that does not run here the reason. No damage: it may be meant for another device."""
    from .runtime.bundle import rebuild_command

    lines = []
    for variant, files in bundle.variants.items():
        if files.built is None:
            continue
        reason, here = _compared(files.built.target)
        if reason is not None:
            lines.append(f"note: {files.engine} does not run here: {reason}")
        if reason is not None and here is not None:
            lines.append(f"  here: {here}")
            if here.sms:
                command = rebuild_command(bundle.directory, variant)
                lines.append(f"  Build it for what is here: {command}")
    return lines


def _compared(built: "Target") -> "tuple[str | None, Target | None]":
    """Why an engine does not run here, or None, and what is here where that is known.

    Packages are asked for their versions; nothing is imported, so that nothing can go wrong with it.
    """
    from .engines.flavours import flavour_named, installed_flavours, installed_version
    from .runtime.target import mismatch, target_here

    try:
        flavour = flavour_named(built.library)
        installed_flavours(flavour.name)
    except MissingExtraError:
        return f"{flavour.module} is not installed here; {flavour.install}", None
    except BuildError as error:
        return str(error), None
    version = installed_version(flavour)
    # a library without a package says its version only when it is imported; the devices can be compared
    here = target_here(built.library, built.version if version is None else version)
    return mismatch(built, here), here


def _cells(bundle: "Bundle") -> list[tuple[str, ...]]:
    return [
        (name, file.role, f"{file.bytes} bytes", f"SHA-256 {file.sha256[:16]}...")
        for name, file in bundle.files.items()
    ]


def _self_test(bundle: "Bundle", options: argparse.Namespace) -> None:
    from .benchmarks.report.table import plain
    from .progress import for_terminal
    from .self_test_job import keep_in_receipt, run_self_test, table

    names = list(dict.fromkeys(options.variant)) or list(bundle.variants)
    with for_terminal() as progress:
        found = run_self_test(bundle, names, options.threads, progress)
    print(f"\n{plain(table(found))}")
    for place in dict.fromkeys(test.measured_on for test in found.values()):
        tested = ", ".join(name for name, test in found.items() if test.measured_on == place)
        print(f"{tested} tested with {place}")
    receipt = keep_in_receipt(bundle.directory, found)
    print(f"Kept in {receipt}." if receipt else "The bundle has no receipt to keep this in.")
    failures = [f"{name}: {failure}" for name, test in found.items() for failure in test.failures]
    if failures:
        raise SessionError(
            f"{bundle.directory}: the self test failed. {'; '.join(failures)}. Do not deploy this variant; "
            "build its engine anew, or take another version of the library"
        )
