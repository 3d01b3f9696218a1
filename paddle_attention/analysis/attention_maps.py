"""The attention maps of a network for given images, layer by layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from ..insertion import attention_prefixes
from ..layers import MAP_KINDS, NoMapError, map_axes
from ..trial import trial


@dataclass(frozen=True)
class AttentionMap:
    """One map of one attention layer.

    Attributes:
        layer: the layer's name in the network; of a layer that is called several times, ``name#2``...
        mechanism: its class.
        name: the map's name, such as ``'spatial'``; ``''`` for the only one.
        kind: one of :data:`paddle_attention.layers.MAP_KINDS`.
        values: the numbers, an array whose first axis is the images.
        size: ``(H, W)`` of the layer's input.
        before, after: ``[N, channels, H, W]``, the layer's input and output; None unless they are asked for.
    """

    layer: str
    mechanism: str
    name: str
    kind: str
    values: np.ndarray
    size: tuple[int, int]
    before: np.ndarray | None = None
    after: np.ndarray | None = None

    @property
    def of_tokens(self) -> bool:
        """Whether the positions are the tokens of a Transformer, ``[L, 1]``, and not a map over the image."""
        return self.size[1] == 1 and self.size[0] > 1

    @property
    def of_a_part(self) -> bool:
        """Whether it is one of several maps of parts of the image, as those of a partition."""
        return len([word for word in self.name.split() if word.isdecimal()]) > 1

    @property
    def has_query(self) -> bool:
        """Whether it tells what each position attends to, and so :meth:`source_map` shows one."""
        return self.kind in ("positions", "heads", "column", "row")

    @property
    def title(self) -> str:
        """Layer, mechanism and map."""
        return " ".join(filter(None, (self.layer, self.mechanism, self.name)))

    def gate(self, image: int) -> np.ndarray:
        """``[channels, H, W]`` of one image, expanded over the map; only of a gate."""
        values = self.values[image]
        return np.broadcast_to(values, (values.shape[0], *self.size))

    def source_map(self, image: int, point: tuple[float, float]) -> np.ndarray:
        """What the position at ``point`` attends to, ``[h, w]``; of maps with a query position.

        Args:
            image (int): which.
            point (tuple): ``(y, x)`` of the query, from 0 to 1 across the image.

        Raises:
            ValueError: for a map of another kind.
        """
        values = self.values[image]
        if self.kind == "heads":
            values = values.mean(axis=0)
        if self.kind in ("positions", "heads"):
            targets, sources = (grid_size(n, self.size) for n in values.shape)
            y, x = _nearest(point, targets)
            return values[y * targets[1] + x].reshape(sources)
        if self.kind in ("column", "row"):
            y, x = _nearest(point, self.size)
            found = np.zeros(self.size, values.dtype)
            if self.kind == "column":
                found[:, x] = values[y, x]
            else:
                found[y, :] = values[y, x]
            return found
        raise ValueError(f"{self.title}: a map of the kind {self.kind!r} has no query position")

    def pixel_maps(self, image: int) -> np.ndarray:
        """``[maps, h, w]`` of one image: what has a value at every position; ``[0, h, w]`` without such.

        A gate of many channels is averaged over them.
        """
        values = self.values[image]
        if self.kind == "gate" and values.shape[1:] != (1, 1):
            return self.gate(image).mean(axis=0, keepdims=True)
        if self.kind == "units":
            return values
        if self.kind == "bases":
            return values.T.reshape(-1, *grid_size(values.shape[0], self.size))
        return np.zeros((0, *self.size), values.dtype)

    def channel_weights(self, image: int) -> np.ndarray:
        """``[branches, channels]`` of one image: weights of channels; of a gate one row, its mean over the map."""
        values = self.values[image]
        if self.kind == "branches":
            return values.reshape(values.shape[0], -1)
        if self.kind == "gate" and values.shape[0] > 1:
            return values.reshape(values.shape[0], -1).mean(axis=1)[None]
        return np.zeros((0, 0), values.dtype)


def _nearest(point: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
    y, x = (min(int(p * n), n - 1) for p, n in zip(point, size, strict=True))
    return y, x


def grid_size(positions: int, size: tuple[int, int]) -> tuple[int, int]:
    """``(h, w)`` with ``h * w == positions``, in proportions as near as can be to those of ``size``."""
    wanted = math.log(size[0] / size[1])
    heights = [h for h in range(1, positions + 1) if positions % h == 0]
    height = min(heights, key=lambda h: abs(math.log(h / (positions // h)) - wanted))
    return height, positions // height


def attention_layers(network: nn.Layer) -> dict[str, nn.Layer]:
    """Names to the attention layers of a network that can show maps, in the order in which they are in it."""
    layers = dict(network.named_sublayers(include_self=True))
    names = [""] if hasattr(network, "attention_maps") else [p[:-1] for p in attention_prefixes(network)]
    return {name: layers[name] for name in names if hasattr(layers[name], "attention_maps")}


@paddle.no_grad()
def record_maps(
    network: nn.Layer, images: Tensor | np.ndarray, only: str | None = None, features: bool = False
) -> list[AttentionMap]:
    """Run ``network`` on ``images`` and return all attention maps, in the order in which they are made.

    The network is run in eval mode and is afterwards as it was.

    Args:
        network (paddle.nn.Layer): with attention of this library, inserted or its own.
        images: ``[N, 3, H, W]``, as the network takes them.
        only (str, optional): a part of the names of the layers that are wanted.
        features (bool): keep the layers' inputs and outputs as well.

    Returns:
        list of :class:`AttentionMap`.

    Raises:
        ValueError: if the network has no attention that can show maps, or none with ``only``; naming the
            layer, for maps of another shape than ``MAPS`` of its class says.
    """
    layers = {n: x for n, x in attention_layers(network).items() if only is None or only in n}
    if not layers:
        kind = type(network).__name__
        raise ValueError(
            f"{kind} has no attention that can show maps"
            + ("" if only is None else f" in layers named *{only}*")
        )
    found: list[AttentionMap] = []
    calls: dict[str, int] = {}

    def before(name: str) -> Any:
        def hook(layer: nn.Layer, inputs: tuple[Any, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            label = name if calls[name] == 1 else f"{name}#{calls[name]}"
            if inputs:  # a layer may also be given its input by name, which hooks do not see
                started.append(list(_maps_of(layer, label, inputs[0], features)))

        return hook

    def after(layer: nn.Layer, inputs: tuple[Any, ...], output: Any) -> None:
        maps = started.pop() if inputs else []
        values = output.numpy() if features and isinstance(output, Tensor) else None
        found.extend(dataclasses.replace(one, after=values) for one in maps)

    started: list[list[AttentionMap]] = []
    with trial(network) as handles:
        for name, layer in layers.items():
            handles.append(layer.register_forward_pre_hook(before(name)))
            handles.append(layer.register_forward_post_hook(after))
        network(images if isinstance(images, Tensor) else paddle.to_tensor(images))
    if not found:
        raise ValueError(f"{type(network).__name__}: none of its attention made a map: {', '.join(layers)}")
    return found


def _maps_of(layer: nn.Layer, label: str, x: Tensor, features: bool) -> Iterator[AttentionMap]:
    mechanism, kinds = type(layer).__name__, getattr(layer, "MAPS", {})
    try:
        maps = layer.attention_maps(x)
    except NoMapError:
        return
    if maps is None:
        return
    before = x.numpy() if features else None
    for name, value in _flat(maps):
        own = name.rpartition(" ")[2] if name else ""
        kind = kinds.get(own if own in kinds else "", "gate")
        size = (x.shape[2], x.shape[3])
        if not _fits(kind, value, size):
            what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"layer {label}: the map {name!r} of {mechanism} is {what} for an input of {list(x.shape)}, which is "
                f"no {kind!r}; say in MAPS of {mechanism} what it is: {', '.join(MAP_KINDS)}"
            )
        yield AttentionMap(label, mechanism, name, kind, value.numpy(), size, before)


def _fits(kind: str, value: Any, size: tuple[int, int]) -> bool:
    """Whether a map can be of a kind, by its shape."""
    if kind not in MAP_KINDS or not isinstance(value, Tensor):
        return False
    if len(value.shape) != map_axes(kind):
        return False
    return kind != "gate" or all(n in (1, whole) for n, whole in zip(value.shape[2:], size, strict=True))


def _flat(maps: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """``(name, tensor)`` of what ``attention_maps`` returns; items of a list are numbered from 1."""
    if isinstance(maps, dict):
        for key, value in maps.items():
            yield from _flat(value, f"{name} {key}".strip())
    elif isinstance(maps, (list, tuple)):
        for number, value in enumerate(maps, 1):
            yield from _flat(value, f"{name} {number}".strip() if len(maps) > 1 else name)
    else:
        yield name, maps
