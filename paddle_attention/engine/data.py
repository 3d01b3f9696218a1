"""Datasets, samplers and loaders under PaddleClas' names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle.io import BatchSampler, Dataset, DistributedBatchSampler

from ..checkpoint import plain_pickles
from ..config import ConfigError, DataError, build_by_name, unsupported
from ..files import read_lines, read_regular_file
from ..preprocess import build_batch_transforms, build_transforms
from .batches import BatchReader
from .loader import Loader
from .multi_scale import MultiScaleSampler, ScaledTransforms, at_size

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
            return np.ascontiguousarray(image.transpose((2, 0, 1))), np.int64(self.labels[index])
        except ConfigError:
            raise
        except Exception as error:
            raise DataError(f"image {self.name(index)}: {error or type(error).__name__}") from error

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
        self.transform, self.list_path = transform, cls_label_path
        self.paths, self.labels, self.lines = [], [], []
        for number, line in read_lines(cls_label_path):
            path, _, label = line.rpartition(delimiter)
            if not path or not _LABEL.fullmatch(label.strip()):
                raise ValueError(
                    f"{cls_label_path}:{number}: expected 'path{delimiter}label', but got {line!r}"
                )
            self.paths.append(os.path.join(image_root, path))
            self.labels.append(int(label))
            self.lines.append(number)
        if not self.paths:
            raise ValueError(f"{cls_label_path} names no image")
        if relabel:
            new = {old: i for i, old in enumerate(sorted(set(self.labels)))}
            self.labels = [new[label] for label in self.labels]
        self._check_files()

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


DATASETS = {cls.__name__: cls for cls in (ImageNetDataset, MultiScaleDataset, Cifar10, Cifar100)}


def _distributed_sampler(
    dataset: ImageNetDataset, batch_size: int, shuffle: bool = False, drop_last: bool = False
) -> BatchSampler:
    return DistributedBatchSampler(dataset, batch_size, shuffle=shuffle, drop_last=drop_last)


def _plain_sampler(
    dataset: Dataset, batch_size: int, shuffle: bool = False, drop_last: bool = False
) -> BatchSampler:
    return BatchSampler(dataset=dataset, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)


SAMPLERS: dict[str, Callable[..., Any]] = {
    "DistributedBatchSampler": _distributed_sampler,
    "BatchSampler": _plain_sampler,
    "MultiScaleSampler": MultiScaleSampler,
}
_OF_EVERY_PROCESS = ("DistributedBatchSampler", "MultiScaleSampler")  # its own images


def loader_options(num_workers: int = 0, use_shared_memory: bool = True) -> dict[str, Any]:
    return {"workers": num_workers, "use_shared_memory": use_shared_memory}


def build_loader(config: dict[str, Any], part: str, class_num: int | None = None) -> Loader:
    """The :class:`Loader` of ``DataLoader.<part>``.

    Args:
        config (dict): the parsed YAML.
        part (str): ``'Train'`` or ``'Eval'``.
        class_num (int, optional): labels must be below it; for operators that mix labels.

    Raises:
        ConfigError: naming the key, for anything that cannot be honoured.
        DataError: naming file and line, for labels that the network has no class for.
    """
    section, path = config["DataLoader"][part], f"DataLoader.{part}"
    settings = config.get("Global") or {}
    check_part(section, path)
    options = dict(section["dataset"])
    name, limit = options.pop("name", None), settings.get("max_image_pixels")
    where = f"{path}.dataset.transform_ops"
    transform = build_transform(name, options.pop("transform_ops", None), where, limit)
    mixing = options.pop("batch_transform_ops", None)
    if mixing and part != "Train":
        raise unsupported(f"{path}.dataset.batch_transform_ops", "mixing outside training")
    dataset = build_by_name(f"{path}.dataset", DATASETS, name, options, transform=transform)
    if class_num is not None:
        dataset.check_labels(class_num)
    skip = settings.get("on_bad_image") == "skip"
    if skip and part != "Train" and paddle.distributed.get_world_size() > 1:
        raise ConfigError(
            "Global.on_bad_image: 'skip' is not possible where several processes evaluate together, "
            "which takes batches of one size; use 'error', or train with eval_during_train: False"
        )
    sampler = _build_sampler(section, path, dataset)
    if mixing:
        mixing = build_batch_transforms(mixing, f"{path}.dataset.batch_transform_ops", class_num)
    options = build_by_name(path, {"loader": loader_options}, "loader", section["loader"])
    return Loader(BatchReader(dataset, mixing or (), skip, part == "Train"), sampler, **options)


def check_part(section: dict[str, Any], path: str) -> None:
    """Raise ConfigError unless a part of ``DataLoader`` has the dicts that it is made of, which go together."""
    for key in ("dataset", "sampler", "loader"):
        if not isinstance(section.get(key), dict):
            raise ConfigError(f"{path}.{key}: must be a dict, but got {section.get(key)!r}")
    dataset, sampler = section["dataset"].get("name"), section["sampler"].get("name")
    if (dataset == MultiScaleDataset.__name__) != (sampler == MultiScaleSampler.__name__):
        raise ConfigError(
            f"{path}.sampler.name: MultiScaleDataset and MultiScaleSampler go together, but got {dataset} and {sampler}"
        )


def build_transform(name: Any, items: Any, where: str, max_pixels: int | None) -> Callable[..., Any]:
    """The operators as one function; for data of several sizes, of an image and the number of its size."""

    def build(operators: Any) -> Callable[..., Any]:
        return build_transforms(operators, where, max_pixels)

    transform = build(items)  # so that a mistake shows now
    if name != MultiScaleDataset.__name__:
        return transform
    at_size(items, (32, 32), where)
    return ScaledTransforms(build, items, where)


def _build_sampler(section: dict[str, Any], path: str, dataset: ImageNetDataset) -> BatchSampler:
    options = dict(section["sampler"])
    name = options.pop("name", "BatchSampler")
    if name not in _OF_EVERY_PROCESS and paddle.distributed.get_world_size() > 1:
        raise ConfigError(
            f"{path}.sampler: {name} gives every process the same images; "
            "use DistributedBatchSampler with several processes"
        )
    sampler = build_by_name(f"{path}.sampler", SAMPLERS, name, options, dataset=dataset)
    if len(sampler) == 0:
        raise ConfigError(
            f"{path}.sampler: {len(dataset)} images give no batch of {options.get('batch_size')}; "
            "lower batch_size or set drop_last to False"
        )
    return sampler


def mixes_labels(config: dict[str, Any]) -> bool:
    """Whether the training batches have mixed (soft) labels."""
    return bool(config["DataLoader"]["Train"]["dataset"].get("batch_transform_ops"))
