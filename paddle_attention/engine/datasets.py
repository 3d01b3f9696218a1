"""Data sets under PaddleClas' names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle.io import Dataset

from ..checkpoint import plain_pickles
from ..config import ConfigError, DataError, short
from ..files import read_lines, read_regular_file
from .multi_scale import ScaledTransforms

_CHECKED_FILES = 10_000  # of a list, before training: each costs a request to the disk
_LABEL = re.compile(r"-?[0-9]{1,9}")


class _Images(Dataset):
    """A data set of images and labels.

    Subclasses have :meth:`image`, :meth:`name`, :meth:`place` and the list ``labels``.
    """

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        return self.read(index)

    def read(self, index: int) -> tuple[np.ndarray, Any]:
        """``(float32 [C, H, W], label)``; raises :class:`DataError` naming the image."""
        return self._read(index, lambda: self.image(index))

    def _read(self, index: int, load: Callable[[], np.ndarray]) -> tuple[np.ndarray, Any]:
        try:
            image = np.asarray(load())
            if image.ndim != 3:
                raise ValueError(f"the operators make an array of shape {list(image.shape)} of it")
            return np.ascontiguousarray(image.transpose((2, 0, 1))), self.target(index)
        except ConfigError:
            raise
        except Exception as error:
            raise DataError(f"image {self.name(index)}: {error or type(error).__name__}") from error

    multilabel = False

    @property
    def highest_label(self) -> int:
        """The last class that occurs."""
        return max(self.labels)

    def target(self, index: int) -> Any:
        """The label that the loss gets."""
        return np.int64(self.labels[index])

    def check_labels(self, class_num: int) -> None:
        """Raise :class:`DataError` for the first label outside ``0 ... class_num - 1``."""
        for index, label in enumerate(self.labels):
            if not 0 <= label < class_num:
                raise DataError(
                    f"{self.place(index)}: label {label} of {self.name(index)} is outside 0 to {class_num - 1}, "
                    f"the classes of the network (Arch.class_num: {class_num})"
                )

    def __len__(self) -> int:
        return len(self.labels)


class ImageNetDataset(_Images):
    """Images named in a list file, one ``path<delimiter>label`` a line.

    Args:
        image_root (str): directory that the paths are relative to.
        cls_label_path (str): the list file, in UTF-8.
        delimiter (str): between path and label.
        relabel (bool): map the labels found, sorted, to 0, 1, 2...
    """

    def __init__(
        self,
        transform: Callable[..., Any],
        image_root: str,
        cls_label_path: str,
        delimiter: str = " ",
        relabel: bool = False,
    ) -> None:
        for what, path, exists in (
            ("cls_label_path", cls_label_path, os.path.isfile(cls_label_path)),
            ("image_root", image_root, os.path.isdir(image_root)),
        ):
            if not exists:
                raise ValueError(f"{what} {path!r} does not exist")
        self.transform, self.list_path, self.delimiter = transform, cls_label_path, delimiter
        self.paths, self.labels, self.lines = [], [], []
        for number, line in read_lines(cls_label_path):
            path, _, label = line.rpartition(delimiter)
            self.labels.append(self.parse(label.strip() if path else "", number, line))
            self.paths.append(os.path.join(image_root, path))
            self.lines.append(number)
        if not self.paths:
            raise ValueError(f"{cls_label_path} names no image")
        if relabel:
            new = {old: i for i, old in enumerate(sorted(set(self.labels)))}
            self.labels = [new[label] for label in self.labels]
        self._check_files()

    def parse(self, label: str, number: int, line: str) -> Any:
        """The label of line ``number``; raises ValueError naming it."""
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"{self.list_path}:{number}: expected 'path{self.delimiter}label', but got {line!r}"
            )
        return int(label)

    def _check_files(self) -> None:
        step = -(-len(self.paths) // _CHECKED_FILES)
        for index in range(0, len(self.paths), step):
            if not os.path.isfile(self.paths[index]):
                raise ValueError(f"{self.place(index)}: there is no image {self.paths[index]!r}")

    def image(self, index: int) -> np.ndarray:
        return self.transform(read_regular_file(self.paths[index]))

    def name(self, index: int) -> str:
        return self.paths[index]

    def place(self, index: int) -> str:
        return f"{self.list_path}:{self.lines[index]}"


class _Cifar(_Images):
    """The official archive through ``paddle.vision.datasets``; downloaded if ``data_file`` is not given."""

    def __init__(
        self,
        transform: Callable[..., Any],
        data_file: str | None = None,
        mode: str = "train",
        download: bool = True,
        backend: str = "cv2",
    ) -> None:
        if data_file is not None and not os.path.isfile(data_file):
            raise ValueError(f"data_file {data_file!r} does not exist")
        try:
            with plain_pickles():
                source = getattr(paddle.vision.datasets, type(self).__name__)
                self.source = source(data_file, mode, None, download, "cv2")
        except Exception as error:
            raise ValueError(f"{data_file or 'the archive'} cannot be read: {error}") from error
        self.transform, self.file = transform, data_file or type(self).__name__
        self.labels = [int(label) for _, label in self.source.data]
        if not self.labels:
            raise ValueError(f"{data_file} holds no images to {mode}")

    def image(self, index: int) -> np.ndarray:
        return self.transform(np.asarray(self.source[index][0], dtype="uint8"))

    def name(self, index: int) -> str:
        return f"{index} of {self.file}"

    place = name


class Cifar10(_Cifar):
    __doc__ = _Cifar.__doc__


class Cifar100(_Cifar):
    __doc__ = _Cifar.__doc__


class MultiScaleDataset(ImageNetDataset):
    """The same for :class:`MultiScaleSampler`, whose indices say the size of the image as well."""

    def __init__(
        self, transform: ScaledTransforms, image_root: str, cls_label_path: str, delimiter: str = " "
    ) -> None:
        super().__init__(transform, image_root, cls_label_path, delimiter)

    def read(self, index: int) -> tuple[np.ndarray, Any]:
        number, image = divmod(index, len(self))
        return self._read(image, lambda: self.transform(read_regular_file(self.paths[image]), number))

    def name(self, index: int) -> str:
        return super().name(index % len(self))


class MultiLabelDataset(ImageNetDataset):
    """Images with several classes, one ``path<tab>0,1,0...`` a line: a 1 for every class that the image has.

    Args:
        image_root, cls_label_path, delimiter: as of :class:`ImageNetDataset`.
        label_ratio (bool): give the share of images that have each class beside every label, for
            :class:`MultiLabelLoss` with ``weight_ratio``.
    """

    multilabel = True

    def __init__(
        self,
        transform: Callable[..., Any],
        image_root: str,
        cls_label_path: str,
        delimiter: str = "\t",
        label_ratio: bool = False,
    ) -> None:
        super().__init__(transform, image_root, cls_label_path, delimiter)
        self.ratio = np.array(self.labels).mean(0).astype("float32") if label_ratio else None

    def parse(self, label: str, number: int, line: str) -> Any:
        values = [part.strip() for part in label.split(",")]
        wrong = [value for value in values if value not in ("0", "1")]
        if wrong:
            raise ValueError(
                f"{self.list_path}:{number}: expected 'path{self.delimiter.replace(chr(9), '<tab>')}0,1,0...', a 1 for "
                f"every class that the image has, but got {short(line)}"
            )
        if self.labels and len(values) != len(self.labels[0]):
            raise ValueError(
                f"{self.list_path}:{number}: {len(values)} classes, but {len(self.labels[0])} in the lines before"
            )
        return [int(value) for value in values]

    @property
    def highest_label(self) -> int:
        return len(self.labels[0]) - 1

    def target(self, index: int) -> Any:
        label = np.array(self.labels[index], "float32")
        return label if self.ratio is None else np.stack([label, self.ratio])

    def check_labels(self, class_num: int) -> None:
        """Raise :class:`DataError` unless every label has ``class_num`` numbers."""
        if len(self.labels[0]) != class_num:
            raise DataError(
                f"{self.place(0)}: {len(self.labels[0])} classes, but the network has {class_num} (Arch.class_num)"
            )


DATASETS = {
    cls.__name__: cls for cls in (ImageNetDataset, MultiScaleDataset, MultiLabelDataset, Cifar10, Cifar100)
}
