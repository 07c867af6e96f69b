"""Where a model comes from: a zoo network with its checkpoint, or somebody's ONNX file with a spec."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, GraphError
from ..extras import GRAPHS, NETWORKS, require_all
from ..files import sha256_file
from ..progress import Progress
from ..runtime.spec import ModelSpec, read_spec
from .download import cached_path, fetch
from .graph_options import PLAIN, GraphOptions
from .zoo import ZOO, build_model, find_entry
from .zoo_entry import ZooEntry


class Source(ABC):
    """A model before export."""

    spec: ModelSpec

    def fetch(self, progress: Progress) -> None:
        """Bring what is not on this machine yet."""
        return

    @property
    @abstractmethod
    def inputs(self) -> Mapping[str, object]:
        """JSON values that decide the exported graph."""

    @abstractmethod
    def export(self, path: Path, crops: NDArray[np.float32] | None, progress: Progress) -> None:
        """Write the float32 graph to ``path``, proven equal to the model on random input and on ``crops``.

        crops: (N, 3, H, W) float32, preprocessed; None for random input alone.
        """


@dataclass(frozen=True)
class ZooSource(Source):
    """A network of the zoo and its checkpoint, which ``fetch`` brings from ``address`` if there is one."""

    spec: ModelSpec
    checkpoint: Path
    address: str | None = None
    options: GraphOptions = PLAIN

    def fetch(self, progress: Progress) -> None:
        if self.address is not None:
            fetch(self.address, progress)

    @property
    def inputs(self) -> Mapping[str, object]:
        return {
            "model": self.spec.name,
            "checkpoint": sha256_file(self.checkpoint),
            "options": self.options.inputs,
        }

    def export(self, path: Path, crops: NDArray[np.float32] | None, progress: Progress) -> None:
        from .checkpoints import load_checkpoint
        from .onnx_export import export_onnx
        from .verify import verify_export

        model = build_model(self.spec.name)
        load_checkpoint(model, self.checkpoint, progress, self.spec.name)
        export_onnx(model, self.spec, path, progress, self.options)
        try:
            verify_export(model, path, self.spec, crops, progress=progress)
        except GraphError:
            path.unlink()  # a graph that is not the model must not be taken for it later
            raise


@dataclass(frozen=True)
class OnnxSource(Source):
    """An ONNX file with its spec."""

    spec: ModelSpec
    graph: Path
    options: GraphOptions = PLAIN

    @property
    def inputs(self) -> Mapping[str, object]:
        return {
            "onnx": sha256_file(self.graph),
            "spec": self.spec.to_dict(),
            "options": self.options.inputs,
        }

    def export(self, path: Path, crops: NDArray[np.float32] | None, progress: Progress) -> None:
        from .onnx_export import prepare_onnx

        prepare_onnx(self.graph, self.spec, path, progress, self.options)


def open_source(
    model: str, checkpoint: Path | None = None, spec: Path | None = None, options: GraphOptions = PLAIN
) -> Source:
    """The source that ``model`` names: a zoo entry or the path of an ONNX file.

    ``checkpoint`` replaces the official one of a zoo entry, which ``Source.fetch`` brings. ``spec`` describes
    an ONNX file that does not carry its spec itself. ``options`` are rewrites of the exported graph.

    Raises GraphError for a name that is neither, for a graph that is quantised already, for an option that
    does not go with the model, and for an unusable spec; CheckpointError when the checkpoint is not there;
    MissingExtraError for what exporting it takes.
    """
    path = Path(model)
    if _is_file_name(model):
        if checkpoint is not None:
            raise GraphError(
                f"{path}: an ONNX file has its weights inside; --checkpoint goes with a zoo model"
            )
        return _onnx_source(path, spec, options)
    entry = find_entry(model)
    if spec is not None:
        raise GraphError(f"{model}: the zoo knows its spec; --spec goes with an ONNX file")
    require_all(NETWORKS)
    if options.merge_groups is not None:
        _check_groups(model, options.merge_groups)
    if checkpoint is None:
        return ZooSource(entry.spec, cached_path(entry.checkpoint), entry.checkpoint, options)
    if checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint}: this is a directory. Give the checkpoint file itself (.pth)")
    if not checkpoint.is_file():
        raise CheckpointError(
            f"{checkpoint}: there is no such file. Without --checkpoint the official weights of {model} are "
            f"fetched from {entry.checkpoint}"
        )
    _check_name(entry, checkpoint)
    return ZooSource(entry.spec, checkpoint, None, options)


def modules_needed(model: str) -> tuple[str, ...]:
    """The optional modules that exporting ``model`` takes; an ONNX file does without torch."""
    return GRAPHS if _is_file_name(model) else NETWORKS


def _check_groups(model: str, wanted: int) -> None:
    """Refuse a number of groups before anything is fetched for it."""
    import torch

    from .passes.merge_groups import check_mergeable

    with torch.device("meta"):  # the layers without their weights
        network = build_model(model)
    layers = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    check_mergeable(wanted, (layer.groups for layer in network.modules() if isinstance(layer, layers)))


def _check_name(entry: ZooEntry, checkpoint: Path) -> None:
    """Refuse another model's official file, whose keys may fit: those of both input sizes are the same."""
    for other in ZOO.values():
        names = {cached_path(address).name for address in (other.checkpoint, other.checkpoint_v1) if address}
        if other is not entry and checkpoint.name in names:
            raise CheckpointError(
                f"{checkpoint}: by its name this is the official file of {other.name}, not of {entry.name}. "
                f"Name {other.name} as the model; or rename the file, if it holds weights of {entry.name}"
            )


def _is_file_name(model: str) -> bool:
    path = Path(model)
    return model not in ZOO and (path.suffix == ".onnx" or path.is_file())


def _onnx_source(path: Path, spec: Path | None, options: GraphOptions) -> OnnxSource:
    require_all(GRAPHS)
    from .graphs import load_graph, quantised_operator, spec_of

    graph = load_graph(path)
    if operator := quantised_operator(graph):
        raise GraphError(
            f"{path}: the graph is quantised already (it holds {operator}); give its float32 form"
        )
    found = read_spec(spec) if spec is not None else spec_of(graph, str(path))
    if not re.fullmatch(r"[\w.-]+", found.name) or found.name.startswith("."):
        raise GraphError(
            f"spec: the name {found.name!r} becomes a directory; use letters, digits, '.', '_' and '-'"
        )
    return OnnxSource(found, path, options)
