"""The commands that export a network and predict with the result."""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

from .. import ppcls
from .loading import load

logger = logging.getLogger("ppcls")


def do_export_model(options: argparse.Namespace) -> None:
    """Export ``Global.pretrained_model`` into ``Global.save_inference_dir`` and verify it."""
    from ..checkpoint import load_checkpoint
    from ..config import ConfigError, check_config, move_class_num
    from ..deploy import export_inference_model

    config = load(options, "export")
    check_config(config, "export", whole=options.paddleclas is None)
    move_class_num(config)
    settings = config["Global"]
    if not settings.get("pretrained_model"):
        raise ConfigError("Global.pretrained_model: missing; give the checkpoint to export")
    activation = _activation(config)
    shape = config["Global"]["image_shape"]
    if shape[0] is None:
        raise ConfigError(
            f"Global.image_shape: {shape}: the number of channels must be given, such as [3, null, null]"
        )
    network = ppcls.build_network(config, "export")
    logger.info(f"{settings['pretrained_model']}: {load_checkpoint(network, settings['pretrained_model'])}")
    directory = settings.get("save_inference_dir") or "./inference"
    export_inference_model(
        network,
        directory,
        settings["image_shape"],
        activation=activation,
        report=logger.info,
        formats=list(dict.fromkeys(options.format or ["paddle"])),
        images=_photographs(config),
        config=config,
        calibration=_calibration(config, options.calibration) if "int8" in (options.format or ()) else None,
        min_agreement=options.min_agreement,
    )
    logger.info(f"Export succeeded! The inference model is in {os.path.abspath(directory)}")


def _photographs(config: dict[str, Any], most: int = 4) -> Any:
    """Some images of ``Infer.infer_imgs``, prepared, to compare an export on; None where there are none that fit."""
    from ..config import DataError
    from ..preprocess import build_transforms, list_images, read_batches

    infer, shape = config.get("Infer") or {}, config["Global"]["image_shape"]
    try:
        transform = build_transforms(infer.get("transforms"), "Infer.transforms")
        _, images = next(read_batches(list_images(infer.get("infer_imgs") or "")[:most], transform, most))
    except (DataError, ValueError, OSError) as error:  # also ConfigError: the export needs none of this
        logger.info(f"export check: comparing on random images alone ({error})")
        return None
    if any(size not in (None, got) for size, got in zip(shape, images.shape[1:], strict=True)):
        logger.info(
            f"export check: comparing on random images alone (Infer.transforms makes {list(images.shape[1:])}, but "
            f"Global.image_shape is {shape})"
        )
        return None
    return images


def _calibration(config: dict[str, Any], most: int) -> Any:
    """Images of ``DataLoader.Eval``, evenly spread over its list, prepared."""
    import numpy as np

    from ..config import ConfigError
    from ..engine import build_loader

    if not (config.get("DataLoader") or {}).get("Eval"):
        raise ConfigError("DataLoader.Eval: missing, but needed to calibrate int8")
    dataset = build_loader(config, "Eval").dataset
    count = min(most, len(dataset))
    return np.stack([dataset[i * len(dataset) // count][0] for i in range(count)])


def _activation(config: dict[str, Any]) -> str | None:
    """What an exported network ends with, as PaddleClas exports it; takes ``infer_add_softmax`` out of ``Arch``."""
    softmax = (config.get("Arch") or {}).pop("infer_add_softmax", True)
    if (config.get("Global") or {}).get("use_multilabel"):
        return "sigmoid"
    return "softmax" if softmax else None


def do_predict(options: argparse.Namespace) -> None:
    """Classify ``Infer.infer_imgs`` with the model in ``Global.save_inference_dir``."""
    from ..config import ConfigError, check_config
    from ..deploy import open_predictor
    from ..preprocess import Classification

    config = load(options, "predict")
    check_config(config, "predict", whole=options.paddleclas is None)
    settings, classification = config.get("Global") or {}, Classification(config)
    engine = {"gpu": settings.get("device") == "gpu"} if options.engine == "paddle" else {}
    predictor = open_predictor(
        settings.get("save_inference_dir") or "./inference",
        options.engine,
        precision=options.precision,
        **engine,
    )
    expected = {_activation(config)}
    if config["Infer"]["PostProcess"].get("name") == "Topk":
        expected.add(None)  # the best are the best without it, too
    if predictor.verified and predictor.activation not in expected:
        raise ConfigError(
            f"Global.use_multilabel: {bool(settings.get('use_multilabel'))}, but the exported model ends with "
            f"{predictor.activation or 'no activation'} (its manifest); export it again with this YAML"
        )
    if not predictor.verified:
        logger.warning("the exported model has no manifest of checksums; its files are not checked")
    for batch in classification(predictor):
        for result in batch:
            classes = [
                f"{name} {score:.5f}"
                for name, score in zip(
                    result.get("label_names", result["class_ids"]), result["scores"], strict=True
                )
            ]
            print(f"{result['file_name']}: {', '.join(classes)}")
