"""``bundle.json``, read and written: its schema, its seal, and what is refused before any file is looked at.

Schema 2:

    {"schema": 2,
     "posedge": "0.1.0",                                     the version that sealed it
     "spec": {...},                                          ModelSpec as JSON
     "default_variant": "fp32",
     "variants": {"fp32": {"graph": "fp32.onnx",             paths inside the bundle, with "/"
                           "engine": "fp32.engine" or null,
                           "built": {"target": {...},        runtime.target.Target: library, version, SMs ...
                                     "profile": [1, 8, 32]}  smallest, best and largest batch
                                    or null}},
     "files": {"fp32.onnx": {"sha256": "...", "bytes": 5367, "role": "graph"}},
     "versions": {"onnxruntime": "1.31.0"},                  libraries that took part
     "seal": "..."}                                          SHA-256 of all the above

``seal`` is the SHA-256 of the document without that key, as JSON with sorted keys and no spaces. The file is
written in one way only (indent 1, ASCII, a newline at the end), so that any other byte in it, a space too, is
found. There is no date in it: the same inputs give the same bytes. The hashes find damage and mix-ups; they
are no signature.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from .. import __version__
from ..errors import BundleError, GraphError
from ..files import sha256_bytes
from .regular_file import read_regular
from .spec import ModelSpec, spec_from_dict
from .target import Target, target_from_dict, target_to_dict

BUNDLE_FILE = "bundle.json"
SCHEMA = 2
GRAPH, ENGINE, RECEIPT, REPORT = "graph", "engine", "receipt", "report"
TABLE, SEARCH = "calibration table", "search"

DEPLOY_AGAIN = "Run the `posedge deploy` command that made it again."

# far above what any bundle needs; what lies beyond is no bundle and is not worth the memory
_LARGEST_INDEX = 4 << 20
_MOST_FILES = 1000
_LARGEST_FILE = 64 << 30


@dataclass(frozen=True)
class EngineBuild:
    """How an engine was built: library and device in ``target``; min, opt and max batch in ``profile``."""

    target: Target
    profile: tuple[int, int, int] = (1, 8, 32)


@dataclass(frozen=True)
class VariantFiles:
    """The files of one precision, as paths inside the bundle.

    graph: the ONNX file. engine: the TensorRT engine, None where none was built. built: how it was built.
    """

    graph: str
    engine: str | None = None
    built: EngineBuild | None = None


@dataclass(frozen=True)
class SealedFile:
    """What a file was when it was sealed. role: such as "graph", "engine", "receipt"."""

    sha256: str
    bytes: int
    role: str


@dataclass(frozen=True)
class Index:
    """The content of ``bundle.json``; see the module's docstring."""

    spec: ModelSpec
    default_variant: str
    variants: dict[str, VariantFiles]
    files: dict[str, SealedFile]
    versions: dict[str, str]


def index_text(index: Index) -> str:
    """``bundle.json`` as a whole, sealed; the same text for the same index."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "posedge": __version__,
        "spec": index.spec.to_dict(),
        "default_variant": index.default_variant,
        "variants": {name: _variant_to_dict(files) for name, files in index.variants.items()},
        "files": {name: vars(index.files[name]) for name in sorted(index.files)},
        "versions": index.versions,
    }
    return _text(document | {"seal": _seal(document)})


def read_index(directory: Path) -> Index:
    """Read and check ``bundle.json``, and none of the files that it names.

    Raises BundleError: no bundle, no JSON, a key twice, an unknown schema, a changed byte, a value of the
    wrong type, a path that leads outside, too large.
    """
    where = directory / BUNDLE_FILE
    document = _read_document(directory, where)
    try:
        return Index(
            spec=spec_from_dict(document["spec"], "spec"),
            files=_files(document["files"]),
            variants=_variants(document["variants"], document["default_variant"], document["files"]),
            default_variant=document["default_variant"],
            versions=document["versions"],
        )
    except (ValueError, GraphError) as error:
        raise BundleError(f"{where}: {error}. {DEPLOY_AGAIN}") from error


def check_name(name: str) -> None:
    """Raise ValueError for a path that is not a plain one inside the bundle, with "/" between folders."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
        raise ValueError(f"the path {name!r} leads outside the bundle")
    if str(path) != name:
        raise ValueError(f"the path {name!r} is not in its plain form {str(path)!r}")
    if name == BUNDLE_FILE:
        raise ValueError(f"{BUNDLE_FILE} cannot be one of its own files")


def _read_document(directory: Path, where: Path) -> dict[str, Any]:
    if not where.is_symlink() and not where.exists():
        state = f"it has no {BUNDLE_FILE}" if directory.exists() else "there is no such directory"
        raise BundleError(
            f"{directory}: this is no bundle ({state}). If a `posedge deploy` into it was interrupted, run "
            "it again; it goes on from there."
        )
    data = read_regular(where, _LARGEST_INDEX, DEPLOY_AGAIN)
    try:
        document = json.loads(data, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: is not JSON ({error}). {DEPLOY_AGAIN}") from error
    if not isinstance(document, dict) or "schema" not in document:
        raise BundleError(f"{where}: is not the index of a bundle. {DEPLOY_AGAIN}")
    if document["schema"] != SCHEMA or isinstance(document["schema"], bool):
        maker = document.get("posedge")
        raise BundleError(
            f"{where}: has schema {document['schema']!r:.40}, written by posedge {maker!r:.40}; posedge "
            f"{__version__} reads schema {SCHEMA}. Use the version that made the bundle, or run its `posedge "
            "deploy` command again with this one."
        )
    _check_types(document, where)
    unsealed = {key: value for key, value in document.items() if key != "seal"}
    if document["seal"] != _seal(unsealed) or data != _text(document).encode():
        raise BundleError(f"{where}: was changed after it was sealed. {DEPLOY_AGAIN}")
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice in it")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_types(document: dict[str, Any], where: Path) -> None:
    kinds = {
        "posedge": str,
        "spec": dict,
        "default_variant": str,
        "variants": dict,
        "files": dict,
        "versions": dict,
        "seal": str,
    }
    for key, kind in kinds.items():
        if not isinstance(document.get(key), kind):
            raise BundleError(f"{where}: {key!r} is missing or not a JSON {kind.__name__}. {DEPLOY_AGAIN}")
    if not all(isinstance(version, str) for version in document["versions"].values()):
        raise BundleError(f"{where}: 'versions' must name texts. {DEPLOY_AGAIN}")


def _files(entries: dict[str, Any]) -> dict[str, SealedFile]:
    if len(entries) > _MOST_FILES:
        raise ValueError(f"it lists {len(entries)} files; a bundle has {_MOST_FILES} at most")
    for name, entry in entries.items():
        check_name(name)
        if (
            not isinstance(entry, dict)
            or set(entry) != {"sha256", "bytes", "role"}
            or not isinstance(entry["sha256"], str)
            or not isinstance(entry["role"], str)
            or type(entry["bytes"]) is not int
            or not 0 <= entry["bytes"] <= _LARGEST_FILE
        ):
            raise ValueError(f"the entry of file {name!r} must hold sha256, bytes and role")
    return {name: SealedFile(**entry) for name, entry in entries.items()}


def _variants(entries: dict[str, Any], default: str, files: dict[str, Any]) -> dict[str, VariantFiles]:
    variants = {name: _variant(name, entry, files) for name, entry in entries.items()}
    if default not in variants:
        raise ValueError(f"the default variant {default!r} is not in it")
    return variants


def _variant(name: str, entry: Any, files: dict[str, Any]) -> VariantFiles:
    if not isinstance(entry, dict) or set(entry) != {"graph", "engine", "built"}:
        raise ValueError(f"variant {name!r} must have graph, engine and built")
    graph, engine, built = entry["graph"], entry["engine"], entry["built"]
    if (
        not isinstance(graph, str)
        or not isinstance(engine, str | None)
        or (engine is None) != (built is None)
    ):
        raise ValueError(f"variant {name!r} has values of the wrong type")
    for file, role in ((graph, GRAPH), (engine, ENGINE)):
        if file is not None and (file not in files or files[file]["role"] != role):
            raise ValueError(f"{file!r} of variant {name!r} is not among the files as its {role}")
    try:
        return VariantFiles(graph, engine, None if built is None else build_from_dict(built))
    except ValueError as error:
        raise ValueError(f"variant {name!r}: {error}") from error


def build_to_dict(build: EngineBuild) -> dict[str, Any]:
    """How an engine was built, as JSON values."""
    return {"target": target_to_dict(build.target), "profile": list(build.profile)}


def build_from_dict(values: object) -> EngineBuild:
    """The inverse of ``build_to_dict``. Raises ValueError that says what is wrong."""
    if not isinstance(values, dict) or set(values) != {"target", "profile"}:
        raise ValueError("how its engine was built must have target and profile")
    profile = values["profile"]
    if (
        not isinstance(profile, list)
        or len(profile) != 3
        or not all(type(size) is int for size in profile)
        or not 1 <= profile[0] <= profile[1] <= profile[2]
    ):
        raise ValueError(f"the profile of its engine cannot be {profile!r:.60}")
    try:
        target = target_from_dict(values["target"])
    except ValueError as error:
        raise ValueError(f"the target of its engine: {error}") from error
    return EngineBuild(target, (profile[0], profile[1], profile[2]))


def _variant_to_dict(files: VariantFiles) -> dict[str, Any]:
    built = None if files.built is None else build_to_dict(files.built)
    return {"graph": files.graph, "engine": files.engine, "built": built}


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1) + "\n"


def _seal(document: dict[str, Any]) -> str:
    return sha256_bytes(json.dumps(document, sort_keys=True, separators=(",", ":")).encode("utf-8"))
