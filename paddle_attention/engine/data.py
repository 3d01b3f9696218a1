"""Datasets, samplers and loaders under PaddleClas' names."""

import os

import numpy as np
import paddle
from paddle.io import BatchSampler, DataLoader, Dataset, DistributedBatchSampler
from paddle.io.dataloader.collate import default_collate_fn

from .config import ConfigError, build_by_name, unsupported
from .transforms import build_batch_transforms, build_transforms


class _Images(Dataset):
    """Images read by :meth:`read`; in the loading thread of one process an error waits in ``failure``.

    Paddle's loader without worker processes reads in a thread, and an exception
    there leaves the main thread waiting for ever. :class:`_Loader` raises it.
    """

    threaded = False
    failure = None

    def __getitem__(self, index):
        try:
            return self.read(index)
        except Exception as error:
            if not self.threaded:
                raise
            self.failure = error
            return None


class _Loader(DataLoader):
    """A ``DataLoader`` that raises what its data set could not read."""

    def __init__(self, dataset, collate_fn, **options):
        super().__init__(dataset, collate_fn=_SkipFailed(collate_fn or default_collate_fn), **options)

    def __iter__(self):
        self.dataset.threaded = self.num_workers == 0
        self.dataset.failure = None
        for batch in super().__iter__():
            if self.dataset.failure is not None:
                raise self.dataset.failure
            yield batch


class _SkipFailed:
    """Collate function that lets a batch with a failed sample through to :class:`_Loader`."""

    def __init__(self, collate):
        self.collate = collate

    def __call__(self, samples):
        if any(sample is None for sample in samples):
            return [np.zeros([1], "float32"), np.zeros([1], "int64")]
        return self.collate(samples)


class ImageNetDataset(_Images):
    """Images named in a list file, one ``path<delimiter>label`` a line.

    Args:
        image_root (str): directory that the paths are relative to.
        cls_label_path (str): the list file.
        delimiter (str): between path and label.
        relabel (bool): map the labels found, sorted, to 0, 1, 2...
    """

    def __init__(self, transform, image_root, cls_label_path, delimiter=" ", relabel=False):
        for what, path, exists in (
            ("cls_label_path", cls_label_path, os.path.isfile(cls_label_path)),
            ("image_root", image_root, os.path.isdir(image_root)),
        ):
            if not exists:
                raise ValueError(f"{what} {path!r} does not exist")
        self.transform = transform
        self.paths, self.labels = [], []
        with open(cls_label_path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                path, _, label = line.strip().rpartition(delimiter)
                if not path or not label.strip().lstrip("-").isdigit():
                    raise ValueError(
                        f"{cls_label_path}:{number}: expected 'path{delimiter}label', but got {line.strip()!r}"
                    )
                self.paths.append(os.path.join(image_root, path))
                self.labels.append(int(label))
        if not self.paths:
            raise ValueError(f"{cls_label_path} names no image")
        if relabel:
            new = {old: i for i, old in enumerate(sorted(set(self.labels)))}
            self.labels = [new[label] for label in self.labels]

    def read(self, index):
        path = self.paths[index]
        try:
            with open(path, "rb") as file:
                image = self.transform(file.read())
        except Exception as error:
            raise ValueError(f"image {path}: {error}") from error
        return np.ascontiguousarray(image.transpose((2, 0, 1))), np.int64(self.labels[index])

    def __len__(self):
        return len(self.paths)


class _Cifar(_Images):
    """The official archive through ``paddle.vision.datasets``; downloaded if ``data_file`` is not given."""

    def __init__(self, transform, data_file=None, mode="train", download=True, backend="cv2"):
        source = getattr(paddle.vision.datasets, type(self).__name__)
        self.source = source(data_file, mode, None, download, "cv2")
        self.transform = transform

    def read(self, index):
        image, label = self.source[index]
        image = self.transform(np.asarray(image, dtype="uint8"))
        return np.ascontiguousarray(image.transpose((2, 0, 1))), np.int64(label)

    def __len__(self):
        return len(self.source)


class Cifar10(_Cifar):
    __doc__ = _Cifar.__doc__


class Cifar100(_Cifar):
    __doc__ = _Cifar.__doc__


DATASETS = {cls.__name__: cls for cls in (ImageNetDataset, Cifar10, Cifar100)}


def _distributed_sampler(dataset, batch_size, shuffle=False, drop_last=False):
    return DistributedBatchSampler(dataset, batch_size, shuffle=shuffle, drop_last=drop_last)


def _plain_sampler(dataset, batch_size, shuffle=False, drop_last=False):
    return BatchSampler(dataset=dataset, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)


SAMPLERS = {"DistributedBatchSampler": _distributed_sampler, "BatchSampler": _plain_sampler}


def _loader_options(num_workers=0, use_shared_memory=True):
    return {"num_workers": num_workers, "use_shared_memory": use_shared_memory}


def _start_worker(worker_id):
    """OpenCV's thread pool does not survive the fork that starts a loading process."""
    import cv2

    cv2.setNumThreads(0)


class _MixBatch:
    """Collate function that applies batch operators to the stacked images and labels."""

    def __init__(self, operators):
        self.operators = operators

    def __call__(self, samples):
        images, labels = (np.stack(field) for field in zip(*samples, strict=True))
        for operator in self.operators:
            images, labels = operator(images, labels)
        return [images, labels]


def build_loader(config, part, class_num=None):
    """The ``paddle.io.DataLoader`` of ``DataLoader.<part>``.

    Args:
        config (dict): the parsed YAML.
        part (str): ``'Train'`` or ``'Eval'``.
        class_num (int, optional): for operators that mix labels.

    Raises:
        ConfigError: naming the key, for anything that cannot be honoured.
    """
    section, path = config["DataLoader"][part], f"DataLoader.{part}"
    for key in ("dataset", "sampler", "loader"):
        if not isinstance(section.get(key), dict):
            raise ConfigError(f"{path}.{key}: must be a dict, but got {section.get(key)!r}")
    options = dict(section["dataset"])
    name = options.pop("name", None)
    transform = build_transforms(options.pop("transform_ops", None), f"{path}.dataset.transform_ops")
    mixing = options.pop("batch_transform_ops", None)
    dataset = build_by_name(f"{path}.dataset", DATASETS, name, options, transform=transform)

    sampler = dict(section["sampler"])
    sampler_name = sampler.pop("name", "BatchSampler")
    if sampler_name != "DistributedBatchSampler" and paddle.distributed.get_world_size() > 1:
        raise ConfigError(
            f"{path}.sampler: {sampler_name} gives every process the same images; "
            "use DistributedBatchSampler with several processes"
        )
    batch_sampler = build_by_name(f"{path}.sampler", SAMPLERS, sampler_name, sampler, dataset=dataset)
    if len(batch_sampler) == 0:
        raise ConfigError(
            f"{path}.sampler: {len(dataset)} images give no batch of {sampler['batch_size']}; "
            "lower batch_size or set drop_last to False"
        )
    collate = None
    if mixing:
        if part != "Train":
            raise unsupported(f"{path}.dataset.batch_transform_ops", "mixing outside training")
        collate = _MixBatch(build_batch_transforms(mixing, f"{path}.dataset.batch_transform_ops", class_num))
    loader = build_by_name(f"{path}", {"loader": _loader_options}, "loader", section["loader"])
    return _Loader(
        dataset,
        collate,
        worker_init_fn=_start_worker,
        batch_sampler=batch_sampler,
        return_list=True,
        **loader,
    )


def mixes_labels(config):
    """Whether the training batches have mixed (soft) labels."""
    return bool(config["DataLoader"]["Train"]["dataset"].get("batch_transform_ops"))
