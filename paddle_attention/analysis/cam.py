"""Class activation maps, and how faithful they are.

R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", arXiv 1610.02391, equations 1 and 2.
A. Chattopadhyay et al., "Grad-CAM++: Improved Visual Explanations for Deep
Convolutional Networks", arXiv 1710.11063, equations 10, 11 and 19.
V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of
Black-box Models", arXiv 1806.07421, section 4.2: deletion and insertion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..naming import did_you_mean
from ..trial import trial


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


def _first(output: Any) -> Any:
    """What a network or layer returns, or the first of what it returns."""
    while isinstance(output, (list, tuple)) and output:
        output = output[0]
    return output


def last_feature_layer(network: nn.Layer, image: Tensor) -> str:
    """Name of the layer that makes the last feature map, which is what the papers look at.

    Of layers that return the same tensor the outermost, so that what is inserted after a block counts.

    Raises:
        ValueError: if no layer returns a map ``[N, C, h, w]`` of the image's proportions, or the last
            comes in the first half of the network, as in Transformers, whose later features are tokens.
    """
    made: list[tuple[int, str]] = []
    calls = [0]
    height, width = image.shape[2:]

    def note(name: str) -> Callable[..., None]:
        def hook(layer: nn.Layer, inputs: Any, output: Any) -> None:
            calls[0] += 1
            output = _first(output)
            if isinstance(layer, (nn.Dropout, nn.Softmax)) or not isinstance(output, Tensor):
                return  # as the weights of tokens for tokens are
            is_map = len(output.shape) == 4 and min(output.shape[2:]) > 1
            if is_map and abs(output.shape[2] / output.shape[3] * width / height - 1) < 0.5:
                made.append((calls[0], name))

        return hook

    with trial(network) as handles, paddle.no_grad():
        handles += [layer.register_forward_post_hook(note(n)) for n, layer in network.named_sublayers() if n]
        network(image)
    if not made or made[-1][0] < calls[0] / 2:
        found = f"; the last is {made[-1][1]!r}, near its beginning" if made else ""
        raise ValueError(
            f"{type(network).__name__} has no feature map [N, C, h, w] at its end{found}: name a layer that has one"
        )
    return made[-1][1]


def _run(network: nn.Layer, images: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The logits, and the output of the layer ``name``, with what is needed to go backward."""
    layers = dict(network.named_sublayers())
    if name not in layers:
        raise ValueError(f"{type(network).__name__} has no layer {name!r}{did_you_mean(name, layers)}")
    kept: list[Any] = []

    def keep(_: nn.Layer, inputs: Any, output: Any) -> None:
        kept.append(_first(output))

    with trial(network) as handles, paddle.enable_grad():
        handles.append(layers[name].register_forward_post_hook(keep))
        images.stop_gradient = False
        logits = _first(network(images))
    if not isinstance(logits, Tensor) or len(logits.shape) != 2:
        raise ValueError(f"{type(network).__name__} returns no logits [N, classes]")
    if (
        not kept
        or not isinstance(kept[-1], Tensor)
        or len(kept[-1].shape) != 4
        or min(kept[-1].shape[2:]) < 2
    ):
        raise ValueError(f"layer {name!r} returns no feature map [N, C, h, w]")
    return logits, kept[-1]


def _chosen(classes: Sequence[int] | None, logits: Tensor) -> np.ndarray:
    if classes is None:
        return logits.argmax(axis=1).numpy()
    chosen = np.asarray(classes)
    count, most = logits.shape
    if chosen.shape != (count,) or chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= most:
        raise ValueError(f"classes must be {count} numbers from 0 to {most - 1}, but got {list(classes)}")
    return chosen


def class_activation(
    network: nn.Layer,
    images: Tensor | np.ndarray,
    classes: Sequence[int] | None = None,
    layer: str | None = None,
    method: str = "gradcam",
) -> tuple[np.ndarray, np.ndarray]:
    """Where the evidence for a class is.

    Args:
        network (paddle.nn.Layer): returns logits ``[N, classes]``, or these first; it is run in eval mode.
        images: ``[N, 3, H, W]``.
        classes (list of int, optional): one for each image. Default: those with the highest logits.
        layer (str, optional): name of the layer whose output is looked at. Default:
            :func:`last_feature_layer`.
        method (str): ``'gradcam'``, ``'gradcam++'``, or ``'mean'`` of the channels, whatever the class.

    Returns:
        tuple: maps ``[N, h, w]``, each from 0 to 1, and the logits ``[N, classes]``.

    Raises:
        ValueError: for an unknown method, layer or class, a layer without a feature map or on which the
            logits do not depend, and for outputs that are not finite.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}, but got {method!r}")
    images = images.detach() if isinstance(images, Tensor) else paddle.to_tensor(images)
    name = last_feature_layer(network, images[:1]) if layer is None else layer
    logits, features = _run(network, images, name)
    if not bool(paddle.isfinite(logits).all()):
        raise ValueError(
            f"{type(network).__name__}: the logits are not finite: the weights or the images are damaged"
        )
    index = paddle.to_tensor(_chosen(classes, logits).reshape(-1, 1))
    with paddle.enable_grad():
        score = paddle.take_along_axis(logits, index, axis=1).sum()
        (gradients,) = paddle.grad(score, features, allow_unused=True)
    if gradients is None:
        raise ValueError(f"the logits do not depend on layer {name!r}; name another")
    maps = F.relu((METHODS[method](features, gradients) * features).sum(axis=1)).numpy()
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
        return _area(self.deletion, self.fraction)

    @property
    def insertion_area(self) -> float:
        """The area under the insertion curve; more is better."""
        return _area(self.insertion, self.fraction)


def _area(values: np.ndarray, places: np.ndarray) -> float:
    """By the trapezoidal rule."""
    return float(((values[1:] + values[:-1]) / 2 * np.diff(places)).sum())


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
    with trial(network):
        for i in range(0, len(versions), batch):
            logits = _first(network(paddle.to_tensor(np.stack(versions[i : i + batch]).astype("float32"))))
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
