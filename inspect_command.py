"""`posedge inspect`: what is in a graph and wrong with it, or what an engine does with its graph."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BundleError, GraphError, OutputError
from .extras import require_all
from .files import write_bytes

if TYPE_CHECKING:
    import onnx

    from .engines.inspection import EngineFile
    from .engines.lint import Finding
    from .runtime.bundle import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge inspect`."""
    parser.set_defaults(run=run_inspect)
    parser.add_argument("target", type=Path, metavar="GRAPH|BUNDLE", help="an ONNX file, or a bundle")
    parser.add_argument("--variant", help="of a bundle: this one only (default: all)")
    parser.add_argument(
        "--mend", type=Path, metavar="OUT", help="of a graph: write it with what can be mended exactly"
    )
    parser.add_argument("--json", action="store_true", help="for machines")


def run_inspect(options: argparse.Namespace) -> int:
    """0; of a graph 1 when it has findings. Raises GraphError, BundleError, OutputError and the like."""
    if not options.target.exists():
        raise GraphError(
            f"{options.target}: there is no such file or directory. Name an ONNX file, or the directory of a "
            "bundle (posedge deploy makes both)"
        )
    require_all(("onnx",))
    if options.target.is_dir():
        return _inspect_bundle(options)
    return _inspect_graph(options)


def _inspect_graph(options: argparse.Namespace) -> int:
    from .engines.inspection.text import finding_lines, graph_document, graph_lines

    path: Path = options.target
    if options.variant is not None:
        raise GraphError(f"{path}: --variant is for bundles, and this is a file. Leave it out")
    if options.mend is not None:
        return _mend(path, options.mend, options.json)
    findings, summary, hints = _look(path)
    if options.json:
        _print_json(graph_document(str(path), summary, findings, hints))
    else:
        print(path)
        print("\n".join([*(graph_lines(summary) if summary else []), *finding_lines(findings, hints)]))
    return 1 if findings else 0


def _look(path: Path) -> "tuple[list[Finding], Any, list[Finding]]":
    """The findings; and, of a graph that is sound, its summary and hints."""
    from .engines.inspection import summarise
    from .engines.lint import hints, lint_file
    from .engines.lint.structure import UNSOUND

    findings = lint_file(path)
    if any(finding.code in UNSOUND for finding in findings):
        return findings, None, []
    model = _load(path)
    return findings, summarise(model), [] if findings else hints(model)


def _mend(path: Path, output: Path, as_json: bool) -> int:
    """Write what can be mended; 1 when something is left that cannot."""
    from .engines.lint import lint, lint_file, mend

    if output.is_dir() or (output.exists() and output.samefile(path)):
        raise OutputError(
            f"{output}: the mended graph needs a file of its own; name another with --mend FILE"
        )
    if output.exists() and not output.is_file():
        raise OutputError(f"{output}: this is not a regular file; name another with --mend FILE")
    if not output.parent.is_dir():
        raise OutputError(
            f"{output}: there is no directory {output.parent}; make it, or name another file with --mend FILE"
        )
    unreadable = [finding for finding in lint_file(path) if finding.code in ("empty-file", "not-onnx")]
    if unreadable:
        raise GraphError(f"{path}: {unreadable[0].message}. {unreadable[0].cure}")
    result, mended = mend(_load(path))
    left = lint(result)
    if mended:
        write_bytes(output, _serialised(result, path))
    if as_json:
        _print_json({"graph": str(path), "mended": _plain(mended), "findings": _plain(left)})
        return 1 if left else 0
    for finding in mended:
        print(f"mended       {finding.code} at {finding.node!r}: {finding.message}")
    for finding in left:
        print(f"left         {finding}")
    print(
        f"{output}: {len(mended)} findings mended" if mended else f"nothing to mend; {output} is not written"
    )
    return 1 if left else 0


def _inspect_bundle(options: argparse.Namespace) -> int:
    import onnx

    from .engines.inspection import inspect_variant
    from .engines.inspection.text import engine_document, engine_lines
    from .runtime.bundle import open_bundle

    if options.mend is not None:
        raise BundleError(f"{options.target}: --mend is for graphs; a bundle stays as it was sealed")
    bundle = open_bundle(options.target)
    names = list(bundle.variants) if options.variant is None else [options.variant]
    reports = []
    for name in names:
        graph = onnx.load_from_string(bundle.read(bundle.variant(name).graph))
        reports.append(inspect_variant(name, graph, _engine_of(bundle, name)))
    if options.json:
        documents = [engine_document(report) for report in reports]
        _print_json({"bundle": str(bundle.directory), "model": bundle.spec.name, "variants": documents})
    else:
        print(f"{bundle.directory}: {bundle.spec.name}")
        for report in reports:
            print("\n".join(["", *engine_lines(report)]))
    return 0


def _engine_of(bundle: "Bundle", variant: str) -> "EngineFile | None":
    """The engine of a variant, read once: the bytes that are told of are those that were checked."""
    from .engines.inspection import EngineFile

    files = bundle.variant(variant)
    if files.engine is None or files.built is None:
        return None
    return EngineFile(files.engine, bundle.read(files.engine), files.built.target)


def _load(path: Path) -> "onnx.ModelProto":
    import onnx

    return onnx.load(path)


def _serialised(model: "onnx.ModelProto", path: Path) -> bytes:
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf's class for this differs between its versions
        raise GraphError(f"{path}: the mended graph is too large for one file (2 GB): {error}") from error
    return data


def _plain(findings: "list[Finding]") -> list[dict[str, Any]]:
    return [vars(finding) for finding in findings]


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=1))
