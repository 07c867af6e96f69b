"""Bundles: a directory with all that a device needs, sealed by the SHA-256 of every file.

``bundle.json``, schema 1:

    {"schema": 1,
     "posedge": "0.1.0",                                     the version that sealed it
     "spec": {...},                                          ModelSpec as JSON
     "default_variant": "fp32",
     "variants": {"fp32": {"graph": "fp32.onnx",             paths inside the bundle, with "/"
                           "engine": "fp32.engine" or null,
                           "engine_built_with": "tensorrt_rtx 1.7.1.14" or null}},
     "files": {"fp32.onnx": {"sha256": "...", "bytes": 5367}},
     "versions": {"onnxruntime": "1.31.0"},                  libraries that took part
     "seal": "..."}                                          SHA-256 of all the above

``seal`` is the SHA-256 of the document without that key, as JSON with sorted keys and no spaces. There is no
date in it: the same inputs give the same bytes. The hashes find damage and mix-ups; they are no signature.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .. import __version__
from ..errors import BundleError, GraphError
from ..files import sha256_bytes, sha256_file, write_text
from .spec import ModelSpec, spec_from_dict

BUNDLE_FILE = "bundle.json"
SCHEMA = 1

_REBUILD = "Run the `posedge deploy` command that made it again."


@dataclass(frozen=True)
class VariantFiles:
    """The files of one precision, as paths inside the bundle.

    graph: the ONNX file. engine: the TensorRT engine, None where none was built.
    engine_built_with: the library and version that built it.
    """

    graph: str
    engine: str | None = None
    engine_built_with: str | None = None


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been checked.

    directory: where it is. spec: how the model is fed and read. variants: files by precision name.
    default_variant: what runs when none is named. versions: libraries that took part, by name.
    """

    directory: Path
    spec: ModelSpec
    variants: dict[str, VariantFiles]
    default_variant: str
    versions: dict[str, str]

    def variant(self, name: str) -> VariantFiles:
        """The files of a variant. Raises BundleError, listing those there are, for an unknown name."""
        if name not in self.variants:
            raise BundleError(
                f"{self.directory}: the bundle has no variant {name!r}; it has {', '.join(self.variants)}."
            )
        return self.variants[name]

    def path(self, name: str) -> Path:
        """Where a file of the bundle is."""
        return self.directory / name


def seal_bundle(
    directory: Path,
    spec: ModelSpec,
    variants: Mapping[str, VariantFiles],
    default_variant: str,
    files: Iterable[str] = (),
    versions: Mapping[str, str] | None = None,
) -> Bundle:
    """Hash the files of ``directory`` and write ``bundle.json`` last, so that what has one is complete.

    files: paths inside the directory to seal besides those of the variants (calibration table, report ...).
    Files that are not listed may lie there too; nothing trusts them.

    Raises BundleError for a listed file that is missing, outside or a link, and for a default that is no
    variant; OutputError when ``bundle.json`` cannot be written.
    """
    if default_variant not in variants:
        raise BundleError(
            f"{directory}: the default variant {default_variant!r} is none of {', '.join(variants)}."
        )
    listed = set(files)
    for variant in variants.values():
        listed |= {name for name in (variant.graph, variant.engine) if name is not None}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "posedge": __version__,
        "spec": spec.to_dict(),
        "default_variant": default_variant,
        "variants": {name: asdict(variant) for name, variant in variants.items()},
        "files": {name: _fingerprint(_checked_path(directory, name)) for name in sorted(listed)},
        "versions": dict(versions or {}),
    }
    document["seal"] = _seal(document)
    write_text(directory / BUNDLE_FILE, json.dumps(document, indent=1) + "\n")
    return Bundle(directory, spec, dict(variants), default_variant, document["versions"])


def open_bundle(directory: Path) -> Bundle:
    """Read ``bundle.json`` and check the size and SHA-256 of every file that it lists.

    Raises BundleError, naming the file and what to do: no bundle, an interrupted or altered one, an unknown
    schema, a missing or changed file, a path that leads outside, a symbolic link.
    """
    document = _read_document(directory)
    where = directory / BUNDLE_FILE
    try:
        spec = spec_from_dict(document["spec"], f"{where}: spec")
    except GraphError as error:
        raise BundleError(f"{error} {_REBUILD}") from error
    for name, fingerprint in document["files"].items():
        _verify(directory, name, fingerprint)
    variants = {name: _read_variant(document, name, where) for name in document["variants"]}
    default = document["default_variant"]
    if default not in variants:
        raise BundleError(f"{where}: the default variant {default!r} is not in it. {_REBUILD}")
    return Bundle(directory, spec, variants, default, document["versions"])


def _read_document(directory: Path) -> dict[str, Any]:
    where = directory / BUNDLE_FILE
    try:
        document = json.loads(where.read_bytes())
    except FileNotFoundError as error:
        state = "there is no such directory" if not directory.exists() else f"it has no {BUNDLE_FILE}"
        raise BundleError(
            f"{directory}: this is no bundle ({state}). If a `posedge deploy` into it was interrupted, run "
            "it again; it goes on from there."
        ) from error
    except OSError as error:
        raise BundleError(f"{where}: cannot be read ({error.strerror}). {_REBUILD}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: is not JSON ({error}). {_REBUILD}") from error
    if not isinstance(document, dict) or "schema" not in document:
        raise BundleError(f"{where}: is not the index of a bundle. {_REBUILD}")
    if document["schema"] != SCHEMA:
        raise BundleError(
            f"{where}: has schema {document['schema']!r}; posedge {__version__} reads schema {SCHEMA}. "
            "Use the posedge version that made the bundle, or deploy again with this one."
        )
    _check_types(document, where)
    if document["seal"] != _seal({key: value for key, value in document.items() if key != "seal"}):
        raise BundleError(f"{where}: was changed after it was sealed. {_REBUILD}")
    return document


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
            raise BundleError(f"{where}: {key!r} is missing or not a JSON {kind.__name__}. {_REBUILD}")
    if not all(isinstance(version, str) for version in document["versions"].values()):
        raise BundleError(f"{where}: 'versions' must name texts. {_REBUILD}")


def _read_variant(document: dict[str, Any], name: str, where: Path) -> VariantFiles:
    entry = document["variants"][name]
    if not isinstance(entry, dict) or set(entry) != {"graph", "engine", "engine_built_with"}:
        raise BundleError(
            f"{where}: variant {name!r} must have graph, engine and engine_built_with. {_REBUILD}"
        )
    optional_texts = (entry["engine"], entry["engine_built_with"])
    if not isinstance(entry["graph"], str) or not all(
        isinstance(text, str | None) for text in optional_texts
    ):
        raise BundleError(f"{where}: variant {name!r} has values of the wrong type. {_REBUILD}")
    for file in (entry["graph"], entry["engine"]):
        if file is not None and file not in document["files"]:
            raise BundleError(f"{where}: {file!r} of variant {name!r} is not among the files. {_REBUILD}")
    return VariantFiles(**entry)


def _verify(directory: Path, name: str, fingerprint: Any) -> None:
    where = directory / BUNDLE_FILE
    if (
        not isinstance(fingerprint, dict)
        or not isinstance(fingerprint.get("sha256"), str)
        or type(fingerprint.get("bytes")) is not int
    ):
        raise BundleError(f"{where}: the entry of file {name!r} must hold sha256 and bytes. {_REBUILD}")
    path = _checked_path(directory, name)
    size = path.stat().st_size
    if size != fingerprint["bytes"]:
        raise BundleError(
            f"{path}: has {size} bytes, but {fingerprint['bytes']} were sealed: the file was changed or is "
            f"cut off. Copy the bundle again. {_REBUILD}"
        )
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}). {_REBUILD}") from error
    if digest != fingerprint["sha256"]:
        raise BundleError(
            f"{path}: its content is not what was sealed (SHA-256 {digest[:12]}..., sealed "
            f"{fingerprint['sha256'][:12]}...). Copy the bundle again. {_REBUILD}"
        )


def _checked_path(directory: Path, name: str) -> Path:
    """The path of a regular file inside the bundle, reached without links."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise BundleError(f"{directory}: the path {name!r} leads outside the bundle. {_REBUILD}")
    path = directory
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(f"{path}: is a symbolic link; a bundle holds its files itself. {_REBUILD}")
    if not path.is_file():
        raise BundleError(f"{path}: the file is missing. Copy the bundle again. {_REBUILD}")
    return path


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def _seal(document: dict[str, Any]) -> str:
    return sha256_bytes(json.dumps(document, sort_keys=True, separators=(",", ":")).encode("utf-8"))
