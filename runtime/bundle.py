"""Bundles: a directory with all that a device needs, sealed by the SHA-256 of every file.

``bundle_index`` says what ``bundle.json`` holds, ``sealing`` writes it, ``engine_files`` hands out engines.
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError
from ..files import sha256_bytes
from .bundle_index import (
    BUNDLE_FILE,
    DEPLOY_AGAIN,
    ENGINE,
    EngineBuild,
    Index,
    SealedFile,
    VariantFiles,
    read_index,
)
from .regular_file import hash_regular, read_regular, size_of_regular
from .sealing import seal_bundle
from .spec import ModelSpec

__all__ = [
    "BUNDLE_FILE",
    "Bundle",
    "EngineBuild",
    "SealedFile",
    "VariantFiles",
    "check_file",
    "open_bundle",
    "open_index",
    "rebuild_command",
    "seal_bundle",
]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been checked.

    directory: where it is. index: what ``bundle.json`` says.
    """

    directory: Path
    index: Index

    @property
    def spec(self) -> ModelSpec:
        """How the model is fed and read."""
        return self.index.spec

    @property
    def variants(self) -> dict[str, VariantFiles]:
        """Files by precision name."""
        return self.index.variants

    @property
    def default_variant(self) -> str:
        """What runs when none is named."""
        return self.index.default_variant

    @property
    def versions(self) -> dict[str, str]:
        """Libraries that took part, by name."""
        return self.index.versions

    @property
    def files(self) -> dict[str, SealedFile]:
        """What was sealed, by path inside the bundle."""
        return self.index.files

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

    def named(self, role: str) -> str | None:
        """The path of the file with this role; None where no file has it."""
        return next((name for name, file in self.files.items() if file.role == role), None)

    def read(self, name: str) -> bytes:
        """A file's content, read once and checked: these very bytes are the sealed ones.

        A check of the file followed by a second reading would leave a moment in which it can be exchanged.
        Raises BundleError for a file that is not in the bundle or not as it was sealed.
        """
        if name not in self.files:
            raise BundleError(f"{self.directory}: {name!r} is not in the bundle.")
        sealed, cure = self.files[name], self.cure(name)
        path = _plain_path(self.directory, name, cure)
        _check_size(path, sealed, size_of_regular(path, cure), cure)
        data = read_regular(path, sealed.bytes, cure)
        _check(path, sealed, len(data), sha256_bytes(data), cure)
        return data

    def cure(self, name: str) -> str:
        """What to do about a file that is missing or not as it was sealed."""
        return _cure(self.directory, self.index, name)


def open_bundle(directory: Path, *, unchecked: Iterable[str] = ()) -> Bundle:
    """Read ``bundle.json`` and check the size and SHA-256 of every file that it lists.

    unchecked: paths inside the bundle to leave out, because the caller makes them anew.

    Raises BundleError, naming the file and what to do: no bundle, an interrupted or altered one, an unknown
    schema, a missing or changed file, a path that leads outside, a symbolic link.
    """
    bundle = open_index(directory)
    skipped = set(unchecked)
    for name in bundle.files:
        if name not in skipped:
            check_file(bundle, name)
    return bundle


def open_index(directory: Path) -> Bundle:
    """Read ``bundle.json`` alone; the files are checked one by one with ``check_file`` or ``Bundle.read``.

    Raises BundleError as ``open_bundle`` does for everything that ``bundle.json`` itself can show.
    """
    return Bundle(directory, read_index(directory))


def check_file(bundle: Bundle, name: str) -> None:
    """Check the size and then the SHA-256 of one file of a bundle. Raises BundleError."""
    sealed, cure = bundle.files[name], bundle.cure(name)
    path = _plain_path(bundle.directory, name, cure)
    _check_size(path, sealed, size_of_regular(path, cure), cure)
    _check(path, sealed, *hash_regular(path, cure), cure)


def rebuild_command(directory: Path, variant: str) -> str:
    """The command that builds a variant's engine anew from the graph in the bundle."""
    return f"posedge build {shlex.quote(str(directory))} --variant {shlex.quote(variant)}"


def _cure(directory: Path, index: Index, name: str) -> str:
    if index.files[name].role == ENGINE:
        for variant, files in index.variants.items():
            if files.engine == name:
                return (
                    f"Copy the bundle again, or build the engine anew: {rebuild_command(directory, variant)}"
                )
    return f"Copy the bundle again. {DEPLOY_AGAIN}"


def _check(path: Path, sealed: SealedFile, size: int, digest: str, cure: str) -> None:
    _check_size(path, sealed, size, cure)
    if digest != sealed.sha256:
        raise BundleError(
            f"{path}: its content is not what was sealed (SHA-256 {digest[:12]}..., sealed "
            f"{sealed.sha256[:12]}...). {cure}"
        )


def _check_size(path: Path, sealed: SealedFile, size: int, cure: str) -> None:
    if size != sealed.bytes:
        raise BundleError(
            f"{path}: has {size} bytes, but {sealed.bytes} were sealed: the file was changed or is cut off. "
            f"{cure}"
        )


def _plain_path(directory: Path, name: str, cure: str) -> Path:
    """The path of a file of the bundle, none of whose folders is a link; its name was checked before."""
    path = directory
    for part in name.split("/")[:-1]:
        path = path / part
        try:
            linked = path.is_symlink()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}). {cure}") from error
        if linked:
            raise BundleError(f"{path}: is a symbolic link; a bundle holds its files itself. {cure}")
    return directory / name
