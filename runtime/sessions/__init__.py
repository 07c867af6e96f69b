"""Sessions: a model loaded on a backend. One protocol for all of them."""

from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..spec import ModelSpec

# one array for each of the spec's output_names, axis 0 of each is the batch
Outputs = tuple[NDArray[np.float32], ...]
SessionT = TypeVar("SessionT", bound="Session")


class Session(Protocol):
    """A loaded model. It is a context manager, and using it after ``close`` raises SessionError."""

    @property
    def name(self) -> str:
        """The backend, for example "onnxruntime"."""

    @property
    def spec(self) -> ModelSpec:
        """How the model is fed and read."""

    @property
    def simulated(self) -> bool:
        """Whether the graph's number types are imitated in others, so that its speed means nothing here."""

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """The spec's outputs, float32 (N, ...) each, of a batch (N, 3, H, W) float32; N may be 0.

        They come in the order of ``spec.output_names`` with the shapes of ``spec.output_shapes``.

        Values that are not finite are handed on as they are. Raises SessionError when the batch does not
        fit or the backend fails.
        """

    def close(self) -> None:
        """Free what the model holds. A second call does nothing."""

    def __enter__(self: SessionT) -> SessionT: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
