"""Conversions of Paddle's that put another layer in the place of one: they keep the attention on it.

Each builds its new layer from the old one's weights and forgets its hooks, and with them the
attention. What they call for one layer is wrapped, once, when attention is first inserted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paddle import nn

_HOOKS = ("_forward_pre_hooks", "_forward_post_hooks")


class AttentionHook:
    """A hook of this library. One that calls a sublayer names it as ``name``."""

    name: str | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a pickle: the conversions of the process that reads it must keep attention, too."""
        vars(self).update(state)
        keep_through_conversions()


def free_name(layer: nn.Layer) -> str:
    """A name for one more attention among the sublayers of ``layer``."""
    number = 1
    while (name := "attention" if number == 1 else f"attention{number}") in layer._sub_layers:
        number += 1
    return name


def carry_attention(old: nn.Layer, new: nn.Layer) -> None:
    """Move the hooks of this library, and the attention they call, to ``new``, which takes the place of ``old``."""
    put_attention(new, *take_attention(old))


def take_attention(layer: nn.Layer) -> tuple[dict[str, dict[int, AttentionHook]], dict[str, nn.Layer]]:
    """Take this library's hooks off a layer, with the sublayers that they call; for :func:`put_attention`."""
    taken, attention = {}, {}
    for hooks in _HOOKS:
        found = {k: hook for k, hook in getattr(layer, hooks).items() if isinstance(hook, AttentionHook)}
        for hook_id, hook in found.items():
            del getattr(layer, hooks)[hook_id]
            if hook.name is not None:
                attention[hook.name] = layer._sub_layers.pop(hook.name)
        taken[hooks] = found
    return taken, attention


def put_attention(
    layer: nn.Layer, taken: dict[str, dict[int, AttentionHook]], attention: dict[str, nn.Layer]
) -> None:
    """Give a layer what was taken off another one; only names that it has already are changed."""
    for hooks, found in taken.items():
        getattr(layer, hooks).update(found)
        for hook in found.values():
            if hook.name is not None:
                sublayer = attention[hook.name]
                if hook.name in layer._sub_layers:
                    hook.name = free_name(layer)
                layer.add_sublayer(hook.name, sublayer)


def keep_through_conversions() -> None:
    """Make Paddle's conversions of layers keep attention; calling it again changes nothing.

    These are ``SyncBatchNorm.convert_sync_batchnorm``, ``QAT`` and ``PTQ`` of ``paddle.quantization``,
    the older ``ImperativeQuantAware`` (which PaddleSlim and PaddleClas call), and ``fuse_layers``.
    """
    if hasattr(nn.SyncBatchNorm.convert_sync_batchnorm.__func__, "keeps_attention"):
        return
    from paddle.quantization import QuantConfig
    from paddle.quantization.imperative import fuse_utils, qat

    _keep_through_sync_bn()
    _keep_through(QuantConfig, "_get_qat_layer")
    _keep_through(qat.ImperativeQuantizeInputs, "_get_input_quantized_layer")
    _keep_through_fusion(fuse_utils)


def _keep_through(owner: type, method: str) -> None:
    """Wrap a method that returns the layer to be used instead of the one it is given."""
    convert: Callable[..., nn.Layer] = getattr(owner, method)

    def convert_and_keep(self: Any, layer: nn.Layer, *arguments: Any) -> nn.Layer:
        converted = convert(self, layer, *arguments)
        carry_attention(layer, converted)
        return converted

    setattr(owner, method, convert_and_keep)


def _keep_through_sync_bn() -> None:
    """``convert_sync_batchnorm`` copies the sublayers of what it replaces but not the hooks: keep all of them."""
    convert = nn.SyncBatchNorm.convert_sync_batchnorm.__func__

    def convert_and_keep(cls: Any, layer: nn.Layer) -> Any:
        converted = convert(cls, layer)
        if converted is not layer:
            for hooks in _HOOKS:
                getattr(converted, hooks).update(getattr(layer, hooks))
        return converted

    convert_and_keep.keeps_attention = True  # type: ignore[attr-defined]
    nn.SyncBatchNorm.convert_sync_batchnorm = classmethod(convert_and_keep)


def _keep_through_fusion(module: Any) -> None:
    """``fuse_layers`` makes one layer of two; attention before the first and after the second stays."""
    fuse: Callable[[list[nn.Layer]], list[nn.Layer]] = module._fuse_func

    def fuse_and_keep(layers: list[nn.Layer]) -> list[nn.Layer]:
        inside = [layer._forward_post_hooks for layer in layers[:-1]]
        inside += [layer._forward_pre_hooks for layer in layers[1:]]
        if any(isinstance(hook, AttentionHook) for hooks in inside for hook in hooks.values()):
            raise ValueError(
                f"fuse_layers: {' and '.join(type(x).__name__ for x in layers)} cannot become one layer, since "
                "attention stands between them; leave them out of the list"
            )
        taken = [take_attention(layer) for layer in layers]
        fused = fuse(layers)
        for hooks, attention in taken:
            put_attention(fused[0], hooks, attention)
        return fused

    module._fuse_func = fuse_and_keep
