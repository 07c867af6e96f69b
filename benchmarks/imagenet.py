"""Top-1 and top-5 accuracy of one variant of a classifier, with the preprocessing that ships."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..calibration.imagenet import ImageBatch, ImageNet, image_batches
from ..progress import SILENT, Progress
from ..runtime.classify import ImagePreprocessor, top_classes
from ..runtime.sessions import Session
from ..runtime.stream import overlapped


@dataclass(frozen=True)
class ImageNetFigures:
    """The share of images, in [0, 1], whose class is the likeliest, and is among the five likeliest."""

    top1: float
    top5: float


@dataclass(frozen=True, eq=False)
class Classification:
    """What evaluation found.

    classes: (N, 5) the likeliest classes of each image, in the dataset's order, so
    that two variants can be compared image by image. labels: (N,) the true ones.
    """

    classes: NDArray[np.intp]
    labels: NDArray[np.intp]

    @property
    def figures(self) -> ImageNetFigures:
        """Top-1 and top-5."""
        hits = self.classes == self.labels[:, None]
        return ImageNetFigures(float(hits[:, 0].mean()), float(hits.any(axis=1).mean()))

    @property
    def images(self) -> NDArray[np.int64]:
        """(N,) indices of the images in the dataset."""
        return np.arange(len(self.labels))

    def headline(self, counts: NDArray[np.int64] | None = None) -> float:
        """Top-1 of images of which the i-th counts ``counts[i]`` times, (N,); None for once each."""
        return float(np.average(self.classes[:, 0] == self.labels, weights=counts))


def evaluate_classifier(
    session: Session, dataset: ImageNet, *, batch: int = 8, progress: Progress = SILENT
) -> Classification:
    """Run the dataset's images through ``session``; reading, the network and ranking overlap.

    An image without any finite logit counts as wrong. Raises DataError for unusable images, and what the
    session raises.
    """

    def counted() -> Iterator[ImageBatch]:
        done = 0
        for part in image_batches(dataset, ImagePreprocessor(session.spec), batch):
            yield part
            done += len(part.labels)
            task.update(done)

    with progress.task("evaluating", float(len(dataset.images))) as task:
        steps = overlapped(counted(), lambda part: session.run(part.batch)[0], _found)
        with closing(steps) as results:
            classes = np.concatenate(list(results))
    labels = np.array([image.label for image in dataset.images], np.intp)
    return Classification(classes, labels)


def _found(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    classes, _ = top_classes(logits)
    classes[~np.isfinite(logits).any(axis=1)] = -1
    return classes
