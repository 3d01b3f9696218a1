"""Change the strides of a built network: dilation instead of stride, stride earlier in the bottleneck.

The weights stay what they are: only attributes of the convolutions change, so a
backbone's pretrained weights still load.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import Tensor, nn

from ..trial import trial

Call = tuple[str, nn.Layer, int, int]  # name, layer, input height, output height
_POOLS = (nn.AvgPool2D, nn.MaxPool2D)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value, value)


def _run(network: nn.Layer, size: int) -> list[Call]:
    """``(name, layer, input height, output height)`` of each convolution and pooling layer, as they run."""
    calls = []

    def note(name: str) -> Callable[..., Any]:
        def hook(layer: nn.Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls.append((name, layer, inputs[0].shape[2], output.shape[2]))

        return hook

    with trial(network) as handles:
        for name, layer in network.named_sublayers():
            if isinstance(layer, (nn.Conv2D, *_POOLS)):
                handles.append(layer.register_forward_post_hook(note(name)))
        with paddle.no_grad():
            network(paddle.zeros([1, 3, size, size]))
    return calls


def _trial(network: nn.Layer) -> tuple[int, list[Call]]:
    """A size of image that the network takes, and what :func:`_run` says of it."""
    for size in (sizes := (128, 224, 256)):
        try:
            return size, _run(network, size)
        except Exception as error:  # the network's own, of any kind
            problem = error
    raise ValueError(
        f"output_stride: {type(network).__name__} does not run on an image of "
        f"{', '.join(map(str, sizes[:-1]))} or {sizes[-1]}: {str(problem).strip().splitlines()[-1]}"
    ) from problem


def _in_a_shortcut(name: str, layer: nn.Layer, followers: dict[str, Call]) -> bool:
    """Whether a pooling layer is followed by the 1x1 convolution beside it, as in the shortcuts of ResNet-D."""
    after = followers.get(name)
    return (
        isinstance(layer, nn.AvgPool2D)
        and after is not None
        and isinstance(after[1], nn.Conv2D)
        and max(_pair(after[1]._kernel_size)) == 1
        and after[0].rpartition(".")[0] == name.rpartition(".")[0]
    )


def set_output_stride(network: nn.Layer, output_stride: int) -> nn.Layer:
    """Keep the feature maps at 1/``output_stride`` of the image, in place, by dilation.

    Every stride beyond is taken out, and the convolutions that follow are dilated by
    as much ("a trous"): the values at the old positions stay what they were. Average
    pooling in a shortcut with a stride that is taken out becomes the identity.

    Args:
        network (paddle.nn.Layer): a network of convolutions that halve the size exactly, as ResNets do.
        output_stride (int): 8, 16 or 32 (or 4).

    Returns:
        The network.

    Raises:
        ValueError: for another ``output_stride``, or a network whose sizes are not
            ``image / 2^n`` or that has a pooling layer which cannot be dilated.
    """
    if output_stride not in (4, 8, 16, 32) or isinstance(output_stride, bool):
        raise ValueError(f"output_stride must be 4, 8, 16 or 32, but got {output_stride!r}")
    size, calls = _trial(network)
    plan: dict[str, tuple[nn.Layer, int, int]] = {}
    seen: dict[str, int] = {}
    for name, layer, before, after in calls:
        if after == 1:
            continue  # global pooling, or a fully connected layer
        if size % before:
            raise ValueError(
                f"output_stride={output_stride}: layer {name!r} of {type(network).__name__} takes a map of "
                f"{before} rows of an image of {size}; only networks that halve the size exactly can be dilated"
            )
        stride = size // before
        if seen.setdefault(name, stride) != stride:
            raise ValueError(
                f"output_stride={output_stride}: layer {name!r} of {type(network).__name__} runs at several strides"
            )
        if stride * max(before // after, 1) > output_stride and name not in plan:
            plan[name] = (layer, stride, before // after)
    followers = {first[0]: second for first, second in itertools.pairwise(calls)}
    for name, (layer, _, step) in plan.items():
        if isinstance(layer, _POOLS) and (step == 1 or not _in_a_shortcut(name, layer, followers)):
            raise ValueError(
                f"output_stride={output_stride}: pooling layer {name!r} of {type(network).__name__} "
                f"lies beyond it and cannot be dilated; use a larger output_stride"
            )
        if isinstance(layer, nn.Conv2D) and (
            isinstance(layer._padding, str)
            or len(_pair(layer._padding)) != 2
            or layer._padding_mode != "zeros"
        ):
            raise ValueError(
                f"output_stride={output_stride}: convolution {name!r} of {type(network).__name__} has "
                f"padding {layer._padding!r}; only symmetric zero padding can be dilated"
            )
    for layer, stride, step in plan.values():
        factor = max(stride // output_stride, 1)
        if isinstance(layer, _POOLS):
            layer.ksize, layer.stride, layer.padding = 1, 1, 0
        else:
            rest = stride * step // output_stride // factor  # what of the stride is beyond
            layer._stride = [s // min(s, rest) for s in _pair(layer._stride)]
            layer._dilation = [d * factor for d in _pair(layer._dilation)]
            layer._padding = [p * factor for p in _pair(layer._padding)]
            layer._updated_padding = layer._padding
    return network


def stride_in_1x1(network: nn.Layer) -> nn.Layer:
    """Move the stride of each bottleneck from its 3x3 to its first 1x1 convolution, in place.

    He et al. (arXiv 1512.03385) and the tables of most papers have it there (3.86 G
    multiply-adds for ResNet-50); PaddleClas has it on the 3x3 (4.09 G).

    Returns:
        The network.

    Raises:
        ValueError: if no bottleneck with its stride on a 3x3 convolution is found.
    """
    moved = 0
    for block in network.sublayers():
        inner = [x for x in block.sublayers() if isinstance(x, nn.Conv2D)]
        if len(inner) < 3 or len(inner) > 4 or [max(_pair(x._kernel_size)) for x in inner[:3]] != [1, 3, 1]:
            continue
        first, second = inner[:2]
        if max(_pair(second._stride)) > 1 and max(_pair(first._stride)) == 1:
            first._stride, second._stride = second._stride, first._stride
            moved += 1
    if not moved:
        raise ValueError(
            f"stride_in_1x1: {type(network).__name__} has no bottleneck with its stride on the 3x3 convolution"
        )
    return network
