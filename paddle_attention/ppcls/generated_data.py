"""A few images in place of the data of PaddleClas' recipes, in the form that each of its data sets reads."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

_IMAGES, _SIDE, _BATCH = 8, 256, 4
_CIFAR_MEMBERS = {
    "Cifar10": (b"labels", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]),
    "Cifar100": (b"fine_labels", ["train", "test"]),
}
_CIFAR_IMAGES = 400  # in a member: some recipes take 25 of every class
# Folders of images whose names say the person and the camera.
_PERSONS = ("market1501/Market-1501-v15.09.15", "msmt17/MSMT17_V1", "dukemtmc/DukeMTMC-reID")
_PERSON_PARTS = ("bounding_box_train", "bounding_box_test", "query")

# A line of the list of image i with a label, for data sets that do not take 'path label'.
_LINES: dict[str, Callable[[int, int, str], str]] = {
    "ICartoonDataset": lambda i, label, delimiter: f"{i}.jpg\t{label}",
    "LogoDataset": lambda i, label, delimiter: f"{i}\t{label + 1}\t-\t{i}.jpg",
    "CustomLabelDataset": lambda i, label, delimiter: f"{i}.jpg{delimiter}{label}",
    "VeriWild": lambda i, label, delimiter: f"{i}.jpg {label} {i % 3}",
}


def write_images(folder: str) -> None:
    """Write the images, boxes, and copies in the folders and archives that some data sets read."""
    random = np.random.RandomState(0)
    for i in range(_IMAGES):
        coarse = random.randint(0, 256, (8, 8, 3)).astype("uint8")
        cv2.imwrite(os.path.join(folder, f"{i}.jpg"), cv2.resize(coarse, (_SIDE, _SIDE)))
        with open(os.path.join(folder, f"{i}.txt"), "w", encoding="ascii") as file:
            file.write(f"0 0 {_SIDE} {_SIDE}\n")
    for persons in _PERSONS:
        for part in _PERSON_PARTS:
            directory = os.path.join(folder, persons, part)
            os.makedirs(directory)
            for i in range(_IMAGES):
                name = f"{i // 4 + 1:04d}_c{i % 4 + 1}s1_{i:06d}_00.jpg"
                os.symlink(os.path.join(folder, f"{i}.jpg"), os.path.join(directory, name))
    for name, (key, members) in _CIFAR_MEMBERS.items():
        _write_cifar(os.path.join(folder, f"{name}.tar.gz"), key, members, random)


def _write_cifar(path: str, key: bytes, members: list[str], random: np.random.RandomState) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for member in members:
            pixels = random.randint(0, 256, (_CIFAR_IMAGES, 3, 4, 4), dtype="uint8")
            pixels = pixels.repeat(8, axis=2).repeat(8, axis=3).reshape(_CIFAR_IMAGES, -1)
            data = pickle.dumps({b"data": pixels, key: [i % 10 for i in range(_CIFAR_IMAGES)]})
            info = tarfile.TarInfo(f"cifar/{member}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def dicts(node: Any) -> Iterator[dict[str, Any]]:
    """All dicts in a parsed YAML."""
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from dicts(value)


def use_images(section: Any, classes: int, folder: str, work: str) -> None:
    """Let every data set of ``DataLoader`` read the images of ``folder``, in small batches.

    Args:
        section (dict): ``DataLoader`` of a parsed YAML; it is changed.
        classes (int): of the network, for labels of several classes.
        folder (str): see :func:`write_images`.
        work (str): where lists are written.
    """
    for number, node in enumerate(dicts(section)):
        for key in ("image_root", "root_dir", "label_root"):
            if key in node:
                node[key] = folder
        for key in ("cls_label_path", "sample_list_path", "label_path"):
            if key in node and node.get("name") not in ("Market1501", "MSMT17", "DukeMTMC"):
                node[key] = _write_list(os.path.join(work, f"list_{number}.txt"), node, classes)
        if node.get("name") in _CIFAR_MEMBERS:
            node.update(data_file=os.path.join(folder, f"{node['name']}.tar.gz"), download=False)
        if "batch_size" in node:
            node["batch_size"] = _BATCH
        if "sample_per_id" in node:
            node["sample_per_id"] = 2
        if "first_bs" in node:
            node["first_bs"] = _BATCH
        if "num_workers" in node:
            node["num_workers"] = 0


def _write_list(path: str, dataset: dict[str, Any], classes: int) -> str:
    name, lines = str(dataset.get("name")), []
    for i in range(_IMAGES):
        if name == "MultiLabelDataset":
            labels = ",".join(str((i + c) % 2) for c in range(classes))
            lines.append(f"{i}.jpg\t{labels}")
        elif name in _LINES:
            lines.append(_LINES[name](i, i % 2, dataset.get("delimiter") or " "))
        else:
            lines.append(f"{i}.jpg{dataset.get('delimiter') or ' '}{i % 2}")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path
