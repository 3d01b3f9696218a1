"""Batches of several image sizes, under PaddleClas' names."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle.io import BatchSampler

from ..config import ConfigError

_CROPS = ("RandCropImage", "ResizeImage", "CropImage")


def at_size(items: Any, size: tuple[int, int], path: str) -> list[Any]:
    """The YAML's operators for images of ``size`` (width, height).

    As in PaddleClas, each operator that crops or resizes gets ``size`` for its only argument.

    Raises:
        ConfigError: if there is no such operator.
    """
    changed, found = [], False
    for item in items if isinstance(items, list) else []:
        name = next(iter(item), None) if isinstance(item, dict) else item
        found = found or name in _CROPS
        changed.append({name: {"size": list(size)}} if name in _CROPS else item)
    if not found:
        raise ConfigError(f"{path}: MultiScaleDataset needs one of {', '.join(_CROPS)}")
    return changed


class ScaledTransforms:
    """The operators for each size, built when a size first comes.

    Args:
        build (callable): ``(operators) -> function of an image``.
        items (list): the YAML's operators.
        path (str): key path for messages.
    """

    def __init__(self, build: Callable[[list[Any]], Callable[..., Any]], items: Any, path: str) -> None:
        self.build, self.items, self.path = build, items, path
        self.sizes: list[tuple[int, int]] = []
        self._built: dict[tuple[int, int], Callable[..., Any]] = {}

    def __call__(self, image: Any, number: int) -> np.ndarray:
        """An image as operators of size ``number`` make it."""
        size = self.sizes[number]
        if size not in self._built:
            self._built[size] = self.build(at_size(self.items, size, self.path))
        return self._built[size](image)


class MultiScaleSampler(BatchSampler):
    """Batches of one size each, of as many images as have the pixels of ``first_bs`` of the first size.

    Which size each batch of an epoch has is drawn once. An index is that of the image plus the
    size's number times the number of images: so a batch is read like any other.

    Args:
        dataset: the images; its transform takes the sizes.
        scales (list): sides of the images in pixels, or ``(width, height)``.
        first_bs (int): images of a batch of the first of the sizes.
        divided_factor (int): sides are rounded down to a multiple of it.
        is_training (bool): False for batches of the first size only.
        shuffle (bool): images in a new order in every epoch.
        seed (int, optional): for the order and the sizes.
    """

    def __init__(
        self,
        dataset: Any,
        scales: Sequence[Any],
        first_bs: int,
        divided_factor: int = 32,
        is_training: bool = True,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        if not isinstance(scales, (list, tuple)) or not scales:
            raise ValueError(f"scales must be a list of at least one size, but got {scales!r}")
        sides = [_sides(scale) for scale in scales]
        self.dataset, self.shuffle, self.seed, self.epoch = dataset, shuffle, seed or 0, 0
        pixels = sides[0][0] * sides[0][1] * first_bs
        sizes = [
            (w // divided_factor * divided_factor, h // divided_factor * divided_factor) for w, h in sides
        ]
        if not is_training:
            sizes = sides[:1]
        if min(map(min, sizes)) < 1:
            raise ValueError(f"scales has {min(sides)}, less than divided_factor={divided_factor}")
        dataset.transform.sizes = sizes
        self._batches = self._plan([max(1, int(pixels / (w * h))) for w, h in sizes])

    def _plan(self, sizes: list[int]) -> list[tuple[int, int]]:
        """``(number of the size, images)`` of every batch."""
        of_each_process = math.ceil(len(self.dataset) / paddle.distributed.get_world_size())
        draw, batches, done = random.Random(self.seed), [], 0
        while done < of_each_process:
            number = draw.randrange(len(sizes))
            batches.append((number, sizes[number]))
            done += sizes[number]
        return batches

    def set_epoch(self, epoch: int) -> None:
        """Of the next iteration, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        rank, ranks = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        order = list(range(len(self.dataset)))
        if self.shuffle:
            random.Random(self.seed * 1_000_003 + self.epoch).shuffle(order)
        mine = order[rank::ranks]
        position = 0
        for number, images in self._batches:
            chosen = mine[position : position + images]
            while len(chosen) < images:  # the last batch is filled from the beginning
                chosen += mine[: images - len(chosen)]
            position += images
            yield [index + number * len(order) for index in chosen]


def _sides(scale: Any) -> tuple[int, int]:
    sides = (scale, scale) if isinstance(scale, int) else scale
    good = isinstance(sides, (list, tuple)) and len(sides) == 2
    if not good or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides):
        raise ValueError(f"scales must be sides in pixels or (width, height), but one is {scale!r}")
    return sides[0], sides[1]
