"""What gates do with classes: their mean by channel, and how much of it the class decides.

J. Hu, L. Shen, G. Sun, "Squeeze-and-Excitation Networks", arXiv 1709.01507, section 6.4
(figures 6 and 7 of the journal version): the average excitation of each channel at
every SE_stageID_blockID, for chosen classes and within one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from paddle import Tensor, nn

from .attention_maps import record_maps


@dataclass(frozen=True)
class Excitation:
    """Channel weights of one gate for many images.

    Attributes:
        layer: the map's title: layer, mechanism and map.
        values: ``[images, channels]``.
        labels: the images' classes.
    """

    layer: str
    values: np.ndarray
    labels: np.ndarray

    def classes(self) -> list[int]:
        """The classes that there are, sorted."""
        return sorted({int(label) for label in self.labels})

    def mean(self, label: int) -> np.ndarray:
        """``[channels]``: the average over the images of a class."""
        return self.values[self.labels == label].mean(axis=0)

    def deviation(self, label: int) -> np.ndarray:
        """``[channels]``: the standard deviation over the images of a class."""
        return self.values[self.labels == label].std(axis=0)

    def class_specificity(self) -> float:
        """The share of the variance that the class decides, from 0 to 1, over all channels.

        The sum of squares between the classes over the whole sum of squares (the correlation
        ratio, eta squared), corrected for the number of classes (epsilon squared), so that it is about
        0 where the class decides nothing. A gate that is the same for all images has 0.
        """
        centre = self.values.mean(axis=0)
        whole = ((self.values - centre) ** 2).sum()
        groups, count = self.classes(), len(self.labels)
        if whole <= 1e-12 * max(count, 1) or count <= len(groups):
            return 0.0
        within = sum(((self.values[self.labels == k] - self.mean(k)) ** 2).sum() for k in groups)
        between = whole - within
        return float(max(0.0, (between - (len(groups) - 1) * within / (count - len(groups))) / whole))


def record_excitation(
    network: nn.Layer, batches: Iterable[tuple[Tensor | np.ndarray, Iterable[int]]], only: str | None = None
) -> list[Excitation]:
    """Channel weights of every gate for all images.

    Args:
        network (paddle.nn.Layer): with attention.
        batches (iterable): of ``(images [N, 3, H, W], labels)``.
        only (str, optional): a part of the names of the layers that are wanted.

    Returns:
        list of :class:`Excitation`, in the order in which the gates are applied.

    Raises:
        ValueError: if there is no image, another number of labels, or no attention layer that weighs channels.
    """
    values: dict[str, list[np.ndarray]] = {}
    labels: list[int] = []
    for images, own in batches:
        own = [int(label) for label in own]
        if len(own) != len(images):
            raise ValueError(f"a batch has {len(images)} images and {len(own)} labels")
        labels += own
        for found in record_maps(network, images, only):
            count = found.values.shape[0]
            rows = [found.channel_weights(i) for i in range(count)]
            for branch in range(rows[0].shape[0]):
                title = found.title if rows[0].shape[0] == 1 else f"{found.title} branch {branch + 1}"
                values.setdefault(title, []).append(np.stack([row[branch] for row in rows]))
    if not labels:
        raise ValueError("there is no image")
    if not values:
        raise ValueError(f"{type(network).__name__} has no attention that weighs channels")
    return [Excitation(title, np.concatenate(parts), np.array(labels)) for title, parts in values.items()]


def excitation_csv(excitations: Iterable[Excitation], names: dict[int, str] | None = None) -> str:
    """One line for each layer, class and channel: mean and standard deviation over the class' images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "class", "channel", "mean", "std", "images", "class_specificity"])
    for excitation in excitations:
        share = f"{excitation.class_specificity():.4f}"
        for label in excitation.classes():
            mean, deviation = excitation.mean(label), excitation.deviation(label)
            count = int((excitation.labels == label).sum())
            for channel, (m, s) in enumerate(zip(mean, deviation, strict=True)):
                name = (names or {}).get(label, str(label))
                writer.writerow([excitation.layer, name, channel, f"{m:.6f}", f"{s:.6f}", count, share])
    return text.getvalue()
