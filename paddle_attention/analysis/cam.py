"""Class activation maps, and how faithful they are.

R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", arXiv 1610.02391, equations 1 and 2.
A. Chattopadhyay et al., "Grad-CAM++: Improved Visual Explanations for Deep
Convolutional Networks", arXiv 1710.11063, equations 10, 11 and 19.
V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of
Black-box Models", arXiv 1806.07421, section 4.2: deletion and insertion.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


def _grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    return gradients.mean(axis=[2, 3], keepdim=True)


def _grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    # The score is exp(logit), whose derivatives are powers of the logit's gradient times the score itself,
    # which the normalisation of the map takes out.
    squared = gradients**2
    total = activations.sum(axis=[2, 3], keepdim=True)
    divisor = 2.0 * squared + total * gradients * squared
    alpha = squared / paddle.where(divisor == 0, paddle.ones_like(divisor), divisor)
    return (alpha * F.relu(gradients)).sum(axis=[2, 3], keepdim=True)


def _mean(activations: Tensor, gradients: Tensor) -> Tensor:
    return paddle.ones_like(activations[:, :, :1, :1]) / activations.shape[1]


#: Methods to functions of activations and gradients ``[N, C, h, w]`` that return the weights of the channels.
METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _grad_cam,
    "gradcam++": _grad_cam_plus_plus,
    "mean": _mean,
}


@contextlib.contextmanager
def _evaluating(network: nn.Layer) -> Iterator[None]:
    modes = [(layer, layer.training) for layer in network.sublayers(include_self=True)]
    network.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def last_feature_layer(network: nn.Layer, image: Tensor) -> str:
    """Name of the layer that makes the last feature map, which is what the papers look at.

    Of layers that return the same tensor the outermost, so that what is inserted after a block counts.

    Raises:
        ValueError: if no layer returns a map ``[N, C, h, w]`` of more than one position.
    """
    made: list[tuple[str, Any]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(layer: nn.Layer, inputs: Any, output: Any) -> None:
            if (
                isinstance(output, Tensor)
                and len(output.shape) == 4
                and output.shape[2] * output.shape[3] > 1
            ):
                made.append((name, output))

        return hook

    handles = [
        layer.register_forward_post_hook(note(name)) for name, layer in network.named_sublayers() if name
    ]
    try:
        with _evaluating(network), paddle.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    if not made:
        raise ValueError(f"{type(network).__name__} has no layer that returns a feature map [N, C, h, w]")
    return made[-1][0]


def class_activation(
    network: nn.Layer,
    images: Tensor | np.ndarray,
    classes: Sequence[int] | None = None,
    layer: str | None = None,
    method: str = "gradcam",
) -> tuple[np.ndarray, np.ndarray]:
    """Where the evidence for a class is.

    Args:
        network (paddle.nn.Layer): returns logits ``[N, classes]``; it is run in eval mode.
        images: ``[N, 3, H, W]``.
        classes (list of int, optional): one for each image. Default: those with the highest logits.
        layer (str, optional): name of the layer whose output is looked at. Default:
            :func:`last_feature_layer`.
        method (str): ``'gradcam'``, ``'gradcam++'``, or ``'mean'`` of the channels, whatever the class.

    Returns:
        tuple: maps ``[N, h, w]``, each from 0 to 1, and the logits ``[N, classes]``.

    Raises:
        ValueError: for an unknown method, layer or class.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}, but got {method!r}")
    images = images.detach() if isinstance(images, Tensor) else paddle.to_tensor(images)
    name = last_feature_layer(network, images[:1]) if layer is None else layer
    layers = dict(network.named_sublayers())
    if name not in layers:
        raise ValueError(f"{type(network).__name__} has no layer {name!r}")
    kept: list[Tensor] = []

    def keep(_: nn.Layer, inputs: Any, output: Any) -> None:
        kept.append(output)

    handle = layers[name].register_forward_post_hook(keep)
    try:
        with _evaluating(network):
            images.stop_gradient = False
            logits = network(images)
    finally:
        handle.remove()
    if not kept or len(kept[-1].shape) != 4:
        raise ValueError(f"layer {name!r} returns no feature map [N, C, h, w]")
    chosen = logits.argmax(axis=1).numpy() if classes is None else np.asarray(classes)
    if chosen.shape != (logits.shape[0],) or chosen.min() < 0 or chosen.max() >= logits.shape[1]:
        raise ValueError(
            f"classes must be {logits.shape[0]} numbers from 0 to {logits.shape[1] - 1}, but got {classes}"
        )
    score = paddle.take_along_axis(logits, paddle.to_tensor(chosen.reshape(-1, 1)), axis=1).sum()
    (gradients,) = paddle.grad(score, kept[-1])
    maps = F.relu((METHODS[method](kept[-1], gradients) * kept[-1]).sum(axis=1)).numpy()
    low = maps.min(axis=(1, 2), keepdims=True)
    spread = maps.max(axis=(1, 2), keepdims=True) - low
    return (maps - low) / np.where(spread > 0, spread, 1), logits.numpy()


def enlarge(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps ``[N, h, w]`` bilinearly to ``[N, H, W]``."""
    grown = F.interpolate(paddle.to_tensor(maps[:, None].astype("float32")), size=list(size), mode="bilinear")
    return grown.numpy()[:, 0]


@dataclass(frozen=True)
class Faithfulness:
    """How the probability of a class changes as pixels are taken away or given back, the most important first.

    Attributes:
        fraction: of the pixels, from 0 to 1.
        deletion: the probability when so many have been replaced by the blurred image: a good map
            makes it fall early.
        insertion: the same when so many of the image have been put into the blurred one: it should rise early.
    """

    fraction: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_area(self) -> float:
        """The area under the deletion curve; less is better."""
        return float(np.trapz(self.deletion, self.fraction))

    @property
    def insertion_area(self) -> float:
        """The area under the insertion curve; more is better."""
        return float(np.trapz(self.insertion, self.fraction))


@paddle.no_grad()
def faithfulness(
    network: nn.Layer, image: np.ndarray, cam: np.ndarray, class_id: int, steps: int = 20, batch: int = 16
) -> Faithfulness:
    """Delete and insert the pixels of one image in the order of a map.

    Args:
        network (paddle.nn.Layer): returns logits.
        image: ``[3, H, W]``, as the network takes it.
        cam: ``[H, W]``.
        class_id (int): whose probability.
        steps (int): points of a curve besides the first.
        batch (int): images at a time.

    Returns:
        :class:`Faithfulness`.

    Raises:
        ValueError: for a map of another size.
    """
    if cam.shape != image.shape[1:]:
        raise ValueError(f"the map must be {list(image.shape[1:])} as the image is, but is {list(cam.shape)}")
    order = np.argsort(-cam, axis=None, kind="stable")
    blurred = _blur(image)
    fraction = np.linspace(0, 1, steps + 1)
    versions = []
    for start, end in ((image, blurred), (blurred, image)):
        for part in fraction:
            mask = np.zeros(cam.size, bool)
            mask[order[: round(part * cam.size)]] = True
            versions.append(np.where(mask.reshape(cam.shape), end, start))
    found = []
    with _evaluating(network):
        for i in range(0, len(versions), batch):
            logits = network(paddle.to_tensor(np.stack(versions[i : i + batch]).astype("float32")))
            found.append(F.softmax(logits, axis=1).numpy()[:, class_id])
    curve = np.concatenate(found)
    return Faithfulness(fraction, curve[: steps + 1], curve[steps + 1 :])


def _blur(image: np.ndarray) -> np.ndarray:
    """A Gaussian blur, a tenth of the image wide, by two products with a banded matrix."""
    for axis in (1, 2):
        n = image.shape[axis]
        distance = np.arange(n)[:, None] - np.arange(n)[None]
        weights = np.exp(-0.5 * (distance / max(n / 10, 1)) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return image.astype("float32")
