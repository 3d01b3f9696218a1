"""The command ``visualize``: pictures of what a network's attention does with photographs."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from paddle import nn

from .. import ppcls
from ..analysis import pictures
from ..analysis.attention_log import AttentionLog
from ..analysis.attention_maps import attention_layers, record_maps
from ..analysis.cam import METHODS, class_activation, enlarge, faithfulness
from ..analysis.excitation import excitation_csv, record_excitation
from ..checkpoint import load_checkpoint
from ..config import ConfigError, check_config, move_class_num
from ..files import read_lines, write_atomically
from ..preprocess import (
    IMAGE_ENDINGS,
    build_postprocess,
    build_transforms,
    list_images,
    photographer,
    read_batches,
)
from .loading import load

if TYPE_CHECKING:
    from ..config.reading import Config
    from ..engine import Engine

logger = logging.getLogger("ppcls")

_BATCH = 16


class Looker:
    """A network with its weights, and how its images are read and shown again.

    Args:
        config (dict): a checked configuration.

    Raises:
        ConfigError: if ``Global.pretrained_model`` is missing.
    """

    def __init__(self, config: Config) -> None:
        check_config(config, "infer")
        move_class_num(config)
        self.settings, self.section = config.get("Global") or {}, config["Infer"]
        weights = self.settings.get("pretrained_model")
        if not weights:
            raise ConfigError("Global.pretrained_model: missing; give the checkpoint to look at")
        self.name, self.weights = config["Arch"].get("name"), weights
        self.network: nn.Layer = ppcls.build_network(config, "infer")
        logger.info(f"{weights}: {load_checkpoint(self.network, weights)}")
        self.transform = build_transforms(
            self.section["transforms"], "Infer.transforms", self.settings.get("max_image_pixels")
        )
        self.photo = photographer(self.section["transforms"])
        self.names: dict[int, str] = build_postprocess(config).names

    def batches(self, paths: list[str], size: int = _BATCH) -> Iterator[tuple[list[str], np.ndarray]]:
        """``(paths, images)``, as the network takes them."""
        return read_batches(paths, self.transform, size)

    def class_name(self, number: int) -> str:
        return self.names.get(number, str(number))


def visualize(options: argparse.Namespace) -> Iterator[str]:
    """Draw what ``options.what`` says; yields the files as they are written.

    Raises:
        ConfigError, DataError, ValueError, OSError: naming what is wrong.
    """
    _refuse_options_of_others(options)
    config = load(options, "visualize")
    looker = Looker(config)
    os.makedirs(options.output, exist_ok=True)
    draw = {"maps": _maps, "excitation": _excitation, "cam": _cam}[options.what]
    yield from draw(looker, config, options)


_OWN = {"point": "maps", "classes": "excitation", "class_id": "cam", "beside": "cam"}


def _refuse_options_of_others(options: argparse.Namespace) -> None:
    for name, what in _OWN.items():
        if getattr(options, name) is not None and options.what != what:
            raise ValueError(f"--{name.replace('_', '-')} belongs to {what}, not to {options.what}")


def attention_log(engine: Engine) -> AttentionLog:
    """What logs the attention of a training's network for a few images of its evaluation set.

    Raises:
        ConfigError: if there is no such set, no writer, or no attention that can show maps.
    """
    number = engine.settings["log_attention"]
    if not engine.settings.get("use_visualdl"):
        raise ConfigError("Global.log_attention: needs Global.use_visualdl: True")
    if engine.eval_loader is None:
        raise ConfigError(
            "Global.log_attention: needs DataLoader.Eval, whose first images are shown, and no eval_during_train: False"
        )
    if not attention_layers(engine.network):
        raise ConfigError("Global.log_attention: the network has no attention that can show maps")
    dataset = engine.eval_loader.dataset
    images = np.stack([dataset.read(i)[0] for i in range(min(number, len(dataset)))])
    photo = photographer(engine.config["DataLoader"]["Eval"]["dataset"]["transform_ops"])
    return AttentionLog(images, [photo(image) for image in images])


def _images(looker: Looker, options: argparse.Namespace) -> dict[str, str]:
    """The images that are asked for, one, those of a folder, or those that a list names, to the pictures of them."""
    path = options.images or looker.section.get("infer_imgs")
    if not path:
        raise ConfigError("Infer.infer_imgs: missing; give an image, a folder or a list, or --images")
    if path.endswith(".txt"):
        images = [name for name, _ in _listed(path, options.image_root)]
    else:
        images = list_images(path)
    return _targets(list(dict.fromkeys(images))[: options.limit], options)


def _targets(images: list[str], options: argparse.Namespace) -> dict[str, str]:
    """Where the picture of every image goes: named by its path from the folder above all, with its ending if need be."""
    folders = [os.path.dirname(os.path.abspath(image)) for image in images]
    above = os.path.dirname(os.path.commonpath(folders))
    names = {image: os.path.relpath(os.path.abspath(image), above).replace(os.sep, "_") for image in images}
    stems = [os.path.splitext(name)[0] for name in names.values()]
    found: dict[str, str] = {}
    for image, name in names.items():
        stem = os.path.splitext(name)[0]
        stem = name if stems.count(stem) > 1 else stem
        while stem in found.values():  # a_b/c.png and a/b_c.png
            stem += "_"
        found[image] = stem
    return {
        image: os.path.join(options.output, f"{options.what}_{stem}.png") for image, stem in found.items()
    }


def _listed(path: str, root: str | None, delimiter: str = " ") -> list[tuple[str, int | None]]:
    """``(image, label)`` of a list file; the label is None where a line has none."""
    found: list[tuple[str, int | None]] = []
    root = os.path.dirname(path) if root is None else root
    for _, line in read_lines(path):
        name, _, label = line.rpartition(delimiter)
        if name and label.strip().isdecimal():
            found.append((os.path.join(root, name), int(label)))
        else:
            found.append((os.path.join(root, line), None))
    if not found:
        raise ValueError(f"{path} names no image")
    return found


def _maps(looker: Looker, config: Config, options: argparse.Namespace) -> Iterator[str]:
    targets = _images(looker, options)
    for paths, images in looker.batches(list(targets), 1):  # the maps of one image can be large
        maps = record_maps(looker.network, images, options.layer, features=True)
        for number, path in enumerate(paths):
            rows = list(
                pictures.map_rows(
                    looker.photo(images[number]), maps, number, tuple(options.point or (0.5, 0.5))
                )
            )
            figure = pictures.draw_rows(rows, f"{looker.name}: {os.path.basename(path)}")
            yield pictures.save(figure, targets[path])


def _excitation(looker: Looker, config: Config, options: argparse.Namespace) -> Iterator[str]:
    chosen = _by_class(config, options)
    labels = iter([label for _, label in chosen])
    batches = (
        (images, [next(labels) for _ in paths])
        for paths, images in looker.batches([path for path, _ in chosen])
    )
    found = record_excitation(looker.network, batches, options.layer)
    names = {label: looker.class_name(label) for _, label in chosen}
    table = os.path.join(options.output, "excitation.csv")
    write_atomically(table, lambda file: file.write(excitation_csv(found, names).encode()))
    for excitation in found:
        logger.info(
            f"{excitation.layer}: the class decides {excitation.class_specificity():.3f} of the variance"
        )
    yield table
    yield pictures.save(
        pictures.draw_excitation(found, names), os.path.join(options.output, "excitation.png")
    )
    within = min(names)
    yield pictures.save(
        pictures.draw_excitation(found, names, within),
        os.path.join(options.output, f"excitation_within_{within}.png"),
    )


def _by_class(config: Config, options: argparse.Namespace) -> list[tuple[str, int]]:
    """``(image, label)``: up to ``options.limit`` of each wanted class of the list."""
    dataset = ((config.get("DataLoader") or {}).get("Eval") or {}).get("dataset") or {}
    path = options.images or dataset.get("cls_label_path")
    if not path:
        raise ConfigError(
            "DataLoader.Eval.dataset.cls_label_path: missing; give a list of images and labels, or --images"
        )
    if os.path.isdir(path) or path.lower().endswith(IMAGE_ENDINGS):
        raise ValueError(f"--images {path}: excitation needs a list file of lines 'path label'")
    root = options.image_root if options.images else dataset.get("image_root")
    delimiter = " " if options.images else dataset.get("delimiter") or " "
    counts: dict[int, int] = {}
    chosen: list[tuple[str, int]] = []
    for name, label in _listed(path, root, delimiter):
        if label is None:
            raise ValueError(f"{path}: {name} has no label; excitation needs lines 'path label'")
        if (not options.classes or label in options.classes) and counts.get(label, 0) < options.limit:
            counts[label] = counts.get(label, 0) + 1
            chosen.append((name, label))
    missing = sorted(set(options.classes or ()) - set(counts))
    if missing or not chosen:
        raise ValueError(f"--classes: {path} has no image of class {', '.join(map(str, missing))}")
    return chosen


def _cam(looker: Looker, config: Config, options: argparse.Namespace) -> Iterator[str]:
    lookers = [looker]
    for path, weights in options.beside or ():
        other = argparse.Namespace(**vars(options))
        other.config, other.override = path, [f"Global.pretrained_model={weights}"]
        lookers.append(Looker(load(other, "visualize")))
    targets = _images(looker, options)
    streams = [one.batches(list(targets)) for one in lookers]
    for parts in zip(*streams, strict=True):
        names = parts[0][0]
        for number, path in enumerate(names):
            rows = [
                (f"{one.name}: {one.weights}", _cam_panels(one, images[number], options))
                for one, (_, images) in zip(lookers, parts, strict=True)
            ]
            yield pictures.save(pictures.draw_rows(rows, os.path.basename(path)), targets[path])


def _cam_panels(looker: Looker, image: np.ndarray, options: argparse.Namespace) -> list[pictures.Panel]:
    photo, curves = looker.photo(image), {}
    panels: list[pictures.Panel] = []
    wanted = None if options.class_id is None else [options.class_id]
    for method in METHODS:
        try:
            maps, logits = class_activation(looker.network, image[None], wanted, options.layer, method)
        except ValueError as error:
            option = (
                "--class-id: "
                if "classes must be" in str(error)
                else "--layer: "
                if "layer" in str(error)
                else ""
            )
            raise ValueError(f"{option}{error}") from error
        number = int(logits[0].argmax()) if wanted is None else wanted[0]
        shown = enlarge(maps, (image.shape[1], image.shape[2]))[0]
        curves[method] = faithfulness(looker.network, image, shown, number)
        if not panels:
            probability = curves[method].deletion[0]  # of the whole image
            panels.append(pictures.photo_panel(photo, f"{looker.class_name(number)} {probability:.3f}"))
        panels.append(pictures.map_panel(photo, shown, method))
    return [*panels, pictures.faithfulness_panel(curves)]
