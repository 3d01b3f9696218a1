"""One batch: images read, decoded, transformed, stacked and mixed.

All random numbers of an image are a function of the run's seed, the epoch and the
image, and those of a batch of the seed, the epoch and the batch. So neither the
number of processes that read nor the place where a run was interrupted changes
what an epoch holds, and no generator's state has to be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import DataError
from ..preprocess.generators import set_seed

if TYPE_CHECKING:
    from .datasets import ImageNetDataset

Sample = tuple[np.ndarray, Any]  # an image and its label
Batch = tuple[
    np.ndarray | None, np.ndarray | None, list[str]
]  # images, labels, messages about those left out

_SUBSTITUTES = 1000  # images tried for a batch none of whose own can be read


class BatchReader:
    """Reads batches of ``dataset``: decodes, transforms, stacks and mixes.

    Args:
        dataset: has ``read(index) -> (image, label)``, which raises :class:`DataError`,
            and ``name(index)``.
        mixing (list of callable): functions of the stacked ``(images, labels)``.
        skip (bool): leave out an image that cannot be read instead of raising.
        substitute (bool): if no image of a batch is left, take one that follows in the data set, so
            that every batch of a training exists.
    """

    def __init__(
        self,
        dataset: ImageNetDataset,
        mixing: Sequence[Callable[..., Any]] = (),
        skip: bool = False,
        substitute: bool = False,
    ) -> None:
        self.dataset, self.mixing = dataset, list(mixing)
        self.skip, self.substitute = skip, substitute

    def __call__(self, seed: tuple[int, ...], epoch: int, number: int, indices: list[int]) -> Batch:
        """Read the images ``indices`` as batch ``number``.

        Returns:
            tuple: images ``[n, C, H, W]``, labels ``[n]`` (mixed and multi-hot: ``[n, classes]``), and the
            messages about images left out; images and labels are None where none is left.

        Raises:
            DataError: naming the file, for an image that cannot be read, and for images of
                different sizes.
        """
        samples: list[Sample] = []
        kept: list[int] = []
        skipped: list[str] = []
        for index in indices:
            sample, message = self._read(seed, epoch, index)
            if sample is None:
                skipped.append(str(message))
            else:
                samples.append(sample)
                kept.append(index)
        if not samples and self.substitute:
            samples, kept = self._read_another(seed, epoch, indices, skipped[0])
        if not samples:
            return None, None, skipped
        self._check_shapes(samples, kept)
        images = np.stack([image for image, _ in samples])
        labels = np.stack([label for _, label in samples])
        set_seed(*seed, epoch, 1, number)
        for mix in self.mixing:
            images, labels = mix(images, labels)
        return images, labels, skipped

    def _read(self, seed: tuple[int, ...], epoch: int, index: int) -> tuple[Sample, None] | tuple[None, str]:
        """``(sample, None)``, or ``(None, message)`` of an image that is left out."""
        set_seed(*seed, epoch, 0, index)
        try:
            return self.dataset.read(index), None
        except DataError as error:
            if not self.skip:
                raise
            return None, str(error)

    def _read_another(
        self, seed: tuple[int, ...], epoch: int, indices: list[int], message: str
    ) -> tuple[list[Sample], list[int]]:
        """``([sample], [index])`` of one that is not of the batch; those left out count in batches of their own."""
        number, tried = len(self.dataset), set(indices)
        for offset in range(1, min(number, _SUBSTITUTES)):
            index = (indices[-1] + offset) % number
            if index not in tried:
                tried.add(index)
                sample, _ = self._read(seed, epoch, index)
                if sample is not None:
                    return [sample], [index]
        raise DataError(f"none of {len(tried)} images can be read, such as {message}")

    def _check_shapes(self, samples: list[Sample], indices: list[int]) -> None:
        first = samples[0][0].shape
        for (image, _), index in zip(samples, indices, strict=True):
            if image.shape != first:
                raise DataError(
                    f"images of a batch must have one size: {self.dataset.name(indices[0])} is "
                    f"{_size(first)}, {self.dataset.name(index)} is {_size(image.shape)}; "
                    "add ResizeImage and CropImage to transform_ops"
                )


def _size(shape: Sequence[int]) -> str:
    return f"{shape[2]}x{shape[1]}" if len(shape) == 3 else f"of shape {list(shape)}"
