"""Sealing: writing ``bundle.json`` last, and exchanging files of a bundle that stays valid all the time."""

import os
import shutil
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..errors import BundleError
from ..files import output_errors, replacing, write_text
from .bundle_index import (
    BUNDLE_FILE,
    DEPLOY_AGAIN,
    ENGINE,
    GRAPH,
    Index,
    SealedFile,
    VariantFiles,
    check_name,
    index_text,
)
from .regular_file import hash_regular
from .spec import ModelSpec

_NEXT = ".next"


def seal_bundle(
    directory: Path,
    spec: ModelSpec,
    variants: Mapping[str, VariantFiles],
    default_variant: str,
    files: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Index:
    """Hash the files of ``directory`` and write ``bundle.json`` last, so that what has one is complete.

    files: paths inside the directory to seal besides those of the variants, each with its role ("calibration
    table", "receipt", "report" ...). Files that are not listed may lie there too; nothing trusts them.

    Raises BundleError for a listed file that is missing, outside or a link, for an engine without its build,
    and for a default that is no variant; OutputError when ``bundle.json`` cannot be written.
    """
    if default_variant not in variants:
        raise BundleError(
            f"{directory}: the default variant {default_variant!r} is none of {', '.join(variants)}."
        )
    roles = dict(files or {})
    for name, variant in variants.items():
        if (variant.engine is None) != (variant.built is None):
            raise BundleError(f"{directory}: an engine of {name!r} goes with how it was built.")
        roles[variant.graph] = GRAPH
        if variant.engine is not None:
            roles[variant.engine] = ENGINE
    sealed = {name: _fingerprint(directory, name, role) for name, role in sorted(roles.items())}
    index = Index(spec, default_variant, dict(variants), sealed, dict(versions or {}))
    return _write(directory, index)


def next_name(name: str) -> str:
    """Where ``exchange`` looks for the new content of the file ``name`` of a bundle, as a path inside it."""
    return name + _NEXT


def exchange(
    directory: Path,
    old: Index,
    roles: Mapping[str, str],
    variants: Mapping[str, VariantFiles] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Index:
    """Take new content for files of a sealed bundle. It is valid at every moment, as the old one or the new.

    roles: the files by name, each with its role; the new content of each lies at ``next_name``. A file that
    the bundle did not have is added. variants: those that change. versions: those to add.

    The bundle is sealed twice: with the files where they lie, and once more when they have got their names.
    Whatever stops this in between leaves one of the two, and the next ``exchange`` or ``finish_exchange``
    finishes. Files that do not take part are not looked at; what was sealed of them stays.

    Raises BundleError for new content that is missing or a link; OutputError when the disk is full.
    """
    if any(name.endswith(_NEXT) for name in old.files):
        raise BundleError(f"{directory}: an exchange of files is unfinished; finish_exchange comes first.")
    files = {name: file for name, file in old.files.items() if name not in roles}
    files |= {next_name(name): _fingerprint(directory, next_name(name), role) for name, role in roles.items()}
    changed = {**old.variants, **(variants or {})}
    index = replace(
        old,
        files=_without_orphans(files, changed, old.variants),
        variants={name: _renamed(value, roles, next_name) for name, value in changed.items()},
        versions={**old.versions, **(versions or {})},
    )
    return finish_exchange(directory, _write(directory, index))


def finish_exchange(directory: Path, index: Index) -> Index:
    """Give the files that ``exchange`` has sealed their names, and delete what an interrupted one left.

    Where nothing is to be done it does nothing. Raises OutputError.
    """
    waiting = {name for name in index.files if name.endswith(_NEXT)}
    if waiting:
        for name in waiting:
            _copy(directory / name, directory / _final(name))
        files = {_final(name) if name in waiting else name: file for name, file in index.files.items()}
        variants = {name: _renamed(value, waiting, _final) for name, value in index.variants.items()}
        index = _write(directory, replace(index, files=files, variants=variants))
    for folder in {PurePosixPath(name).parent for name in index.files}:
        for left in (directory / folder).glob(f"*{_NEXT}"):
            left.unlink(missing_ok=True)
    return index


def _without_orphans(
    files: dict[str, SealedFile], now: Mapping[str, VariantFiles], before: Mapping[str, VariantFiles]
) -> dict[str, SealedFile]:
    """Without the engines that a variant had before and has no more."""
    kept = {variant.engine for variant in now.values()}
    gone = {variant.engine for variant in before.values()} - kept
    return {name: file for name, file in files.items() if name not in gone}


def _renamed(files: VariantFiles, names: Container[str], rename: Callable[[str], str]) -> VariantFiles:
    engine = files.engine
    return replace(files, engine=rename(engine)) if engine is not None and engine in names else files


def _final(name: str) -> str:
    return name.removesuffix(_NEXT)


def _copy(source: Path, target: Path) -> None:
    """The same content under a second name, whole or not at all; a hard link where the disk has them."""
    with output_errors(target), replacing(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _write(directory: Path, index: Index) -> Index:
    write_text(directory / BUNDLE_FILE, index_text(index))
    return index


def _fingerprint(directory: Path, name: str, role: str) -> SealedFile:
    try:
        check_name(name)
    except ValueError as error:
        raise BundleError(f"{directory}: {error}.") from error
    path = directory
    for part in PurePosixPath(name).parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise BundleError(f"{path}: is a symbolic link; a bundle holds its files itself.")
    size, digest = hash_regular(directory / name, DEPLOY_AGAIN)
    return SealedFile(digest, size, role)
