"""Read all images before training, so that a bad one does not show after hours."""

from __future__ import annotations

import concurrent.futures
import os
import sys
from collections.abc import Iterator
from typing import Any

from paddle import nn
from tqdm import tqdm

from ..config import ConfigError, DataError
from ..preprocess import POSTPROCESSES, build_postprocess

_AHEAD = 256  # images waiting for a thread


def check_images(loaders: dict[str, Any], directory: str) -> int:
    """Read and transform every image of the loaders once, in parallel threads, with a progress bar.

    Args:
        loaders (dict): name of the part to its loader.
        directory (str): where ``bad_images.txt`` is written if there are bad ones.

    Returns:
        int: how many images were read.

    Raises:
        DataError: naming the first bad image, how many there are, and the list.
    """
    total = sum(len(loader.dataset) for loader in loaders.values())
    bad = []
    bar = tqdm(
        _messages(loaders), total=total, unit="image", desc="checking", disable=not sys.stderr.isatty()
    )
    with bar:
        for message in bar:
            if message:
                bad.append(message)
    if bad:
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, "bad_images.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{message}\n" for message in bad)
        raise DataError(
            f"{bad[0]} ({len(bad)} of {total} images cannot be used; all are listed in {path}). Remove them from "
            "the lists, or leave out --check-data and train with -o Global.on_bad_image=skip"
        )
    return total


def _messages(loaders: dict[str, Any]) -> Iterator[str]:
    """What is wrong with each image; empty where nothing is."""
    tasks = ((loader.dataset, index) for loader in loaders.values() for index in range(len(loader.dataset)))
    pending: list[concurrent.futures.Future[str]] = []
    with concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        for dataset, index in tasks:
            pending.append(pool.submit(_message, dataset, index))
            if len(pending) >= _AHEAD:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


def _message(dataset: Any, index: int) -> str:
    try:
        dataset.read(index)
    except DataError as error:
        return " ".join(str(error).split())
    return ""


def check_class_names(config: dict[str, Any]) -> None:
    """Raise ConfigError where ``Infer.PostProcess`` does not fit; a list of classes that is not there is no matter yet."""
    infer = config.get("Infer")
    post = infer.get("PostProcess") if isinstance(infer, dict) else None
    if isinstance(post, dict) and post.get("name") in list(POSTPROCESSES):
        path = post.get("class_id_map_file")
        if path is None or os.path.isfile(path):
            build_postprocess(config)


def check_class_num(class_num: int | None, loaders: dict[str, Any], network: nn.Layer) -> None:
    """Raise ConfigError where the YAML leaves the number of classes to the network, which has more than the lists."""
    labels = max((loader.dataset.highest_label for loader in loaders.values()), default=-1)
    heads = [layer.weight.shape[1] for layer in network.sublayers() if isinstance(layer, nn.Linear)]
    if class_num is None and labels >= 0 and heads and heads[-1] > labels + 1:
        raise ConfigError(
            f"Arch.class_num: missing, so the network has {heads[-1]} classes; the lists have labels up to {labels}: "
            f"write class_num: {labels + 1}"
        )
