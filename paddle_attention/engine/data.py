"""Data sets, samplers and loaders from a YAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle.io import BatchSampler, Dataset, DistributedBatchSampler

from ..config import ConfigError, build_by_name, unsupported
from ..preprocess import build_batch_transforms, build_transforms
from .batches import BatchReader
from .datasets import DATASETS, ImageNetDataset, MultiScaleDataset
from .loader import Loader
from .multi_scale import MultiScaleSampler, ScaledTransforms, at_size
from .scores import check_kind


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
    check_part(section, path, bool(settings.get("use_multilabel")))
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


def check_part(section: dict[str, Any], path: str, multilabel: bool = False) -> None:
    """Raise ConfigError unless a part of ``DataLoader`` has the dicts that it is made of, which go together."""
    for key in ("dataset", "sampler", "loader"):
        if not isinstance(section.get(key), dict):
            raise ConfigError(f"{path}.{key}: must be a dict, but got {section.get(key)!r}")
    dataset, sampler = section["dataset"].get("name"), section["sampler"].get("name")
    if (dataset == MultiScaleDataset.__name__) != (sampler == MultiScaleSampler.__name__):
        raise ConfigError(
            f"{path}.sampler.name: MultiScaleDataset and MultiScaleSampler go together, but got {dataset} and {sampler}"
        )
    if dataset in list(DATASETS):
        check_kind(f"{path}.dataset", dataset, DATASETS[dataset], multilabel)
    if multilabel and section["dataset"].get("batch_transform_ops"):
        raise unsupported(f"{path}.dataset.batch_transform_ops", "mixing images with several classes")


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
