"""Backbones of PaddleSeg and PaddleDetection, from the source trees that PADDLESEG_HOME and PADDLEDETECTION_HOME name."""

import importlib
import os
import sys
import types

import numpy as np
import paddle
import pytest
from modes import evaluating

from paddle_attention import insert_attention, remove_attention
from paddle_attention.insertion import check_attention


def module(home, name):
    """A module of a source tree without what the packages above it import, such as data sets and their libraries."""
    folder = os.environ.get(home)
    if not folder:
        pytest.skip(f"{home} is not set")
    parts = name.split(".")
    for depth in range(1, len(parts)):
        package = ".".join(parts[:depth])
        if package not in sys.modules:
            stub = types.ModuleType(package)
            stub.__path__ = [os.path.join(folder, *parts[:depth])]
            sys.modules[package] = stub
    return importlib.import_module(name)


def segmentation(file, name):
    return lambda: getattr(module("PADDLESEG_HOME", f"paddleseg.models.backbones.{file}"), name)()


def detection(file, name, **arguments):
    return lambda: getattr(module("PADDLEDETECTION_HOME", f"ppdet.modeling.backbones.{file}"), name)(
        **arguments
    )


def image():
    return paddle.to_tensor(np.random.RandomState(0).standard_normal([2, 3, 64, 64]).astype("float32"))


CASES = {
    # name: network, example of its inputs, how many residual blocks
    "PaddleSeg ResNet18_vd": (segmentation("resnet_vd", "ResNet18_vd"), image, 8),
    "PaddleSeg ResNet50_vd": (segmentation("resnet_vd", "ResNet50_vd"), image, 16),
    "PaddleSeg HRNet_W18_Small_V1": (segmentation("hrnet", "HRNet_W18_Small_V1"), image, None),
    "PaddleDetection ResNet18": (detection("resnet", "ResNet", depth=18), lambda: {"image": image()}, 8),
    "PaddleDetection ResNet50": (detection("resnet", "ResNet", depth=50), lambda: {"image": image()}, 16),
    "PaddleDetection CSPResNet": (
        detection("cspresnet", "CSPResNet", layers=[1, 1, 1, 1]),
        lambda: {"image": image()},
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_attention_in_a_backbone(name):
    build, inputs, blocks = CASES[name]
    model, x = build(), inputs()
    keys = list(model.state_dict())
    with paddle.no_grad():
        bare = paddle.utils.flatten(evaluating(model)(x))
    inserted = insert_attention(model, {"name": "SE", "min_hidden": 4}, inputs=x)
    assert blocks is None or len(inserted) == blocks
    check_attention(model, x)
    with paddle.no_grad():
        changed = paddle.utils.flatten(model(x))
    assert any(np.abs((a - b).numpy()).max() > 1e-6 for a, b in zip(changed, bare, strict=True))
    model.train()
    sum(y.mean() for y in paddle.utils.flatten(model(x))).backward()
    learning = [k for k, p in model.named_parameters() if "attention" in k and p.grad is not None]
    assert len(learning) == 4 * len(inserted)
    remove_attention(model)
    assert list(model.state_dict()) == keys
