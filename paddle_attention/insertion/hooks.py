"""The hooks by which a network calls its attention, and the layers that belong to it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from paddle import nn

from ..layers import AttentionLayer
from ..registry import list_attentions
from .conversions import AttentionHook, free_name, keep_through_conversions

DISABLED: weakref.WeakSet[AttentionHook] = weakref.WeakSet()


class ApplyAttention(AttentionHook):
    """Forward post hook that passes the layer's output through one of its sublayers.

    Args:
        name (str): of the sublayer.

    Attributes:
        key: dotted name of the sublayer in the network that it was inserted into. It stays when
            something else wraps or replaces layers of the network.
    """

    key = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, layer: nn.Layer, inputs: Any, output: Any) -> Any:
        return self.attend(layer, output) if self.enabled else output

    @property
    def enabled(self) -> bool:
        """False within :func:`attention_disabled`: the tensor passes as it is. Copies are enabled."""
        return self not in DISABLED

    def attend(self, layer: nn.Layer, x: Any) -> Any:
        attention = layer._sub_layers[self.name]
        if not hasattr(x, "shape"):
            raise ValueError(
                f"attention {self.key!r} needs one feature map [N, C, H, W], but its place holds a "
                f"{type(x).__name__} here, perhaps in training only; choose another layer"
            )
        if len(x.shape) == 4:
            return attention(x)
        # Tokens [N, L, C]: to the mechanism they are the positions of a feature map [N, C, L, 1].
        return attention(x.transpose([0, 2, 1]).unsqueeze(-1)).squeeze(-1).transpose([0, 2, 1])


class ApplyBefore(ApplyAttention):
    """Forward pre hook that passes the layer's first input through one of its sublayers."""

    def __call__(self, layer: nn.Layer, inputs: Any) -> Any:  # type: ignore[override]
        self.check_arguments(inputs)
        return (self.attend(layer, inputs[0]), *inputs[1:]) if self.enabled else inputs

    def check_arguments(self, inputs: Any) -> None:
        """Raise ValueError where there is no first argument."""
        if not inputs:
            raise ValueError(
                f"attention {self.key!r} needs the first argument of its layer, which is called with keyword arguments "
                "alone; choose another layer"
            )


class ApplyToShortcut(ApplyBefore):
    """The same for a block, whose branch is given the input as it was by :class:`BypassAttention`."""

    raw = None

    def __call__(self, block: nn.Layer, inputs: Any) -> Any:  # type: ignore[override]
        self.check_arguments(inputs)
        self.raw = inputs[0]
        return super().__call__(block, inputs)


class BypassAttention(AttentionHook):
    """Forward pre hook of the layer that begins the branch."""

    def __init__(self, shortcut: ApplyToShortcut) -> None:
        self.shortcut = shortcut

    def __call__(self, layer: nn.Layer, inputs: Any) -> Any:
        raw, self.shortcut.raw = self.shortcut.raw, None
        return inputs if raw is None else (raw, *inputs[1:])


def attention_hooks(layer: nn.Layer) -> list[ApplyAttention]:
    """The hooks of a layer that call attention."""
    hooks = [*layer._forward_pre_hooks.values(), *layer._forward_post_hooks.values()]
    return [hook for hook in hooks if isinstance(hook, ApplyAttention)]


def hooks_of(model: nn.Layer) -> list[tuple[str, nn.Layer, ApplyAttention]]:
    """``(dotted name of the attention, the layer that it is on, its hook)`` of all attention called by hooks."""
    return [
        (f"{name}.{hook.name}" if name else str(hook.name), layer, hook)
        for name, layer in model.named_sublayers(include_self=True)
        for hook in attention_hooks(layer)
    ]


def keeps_raw_input(block: nn.Layer) -> bool:
    """Whether attention on the block's shortcut already hands its input as it was to the branch."""
    return any(isinstance(hook, ApplyToShortcut) for hook in block._forward_pre_hooks.values())


def backbone_layers(model: nn.Layer) -> dict[str, nn.Layer]:
    """Dotted names to layers, without the attention that was inserted before."""
    layers = {"": model, **dict(model.named_sublayers())}
    inserted = tuple(key for key, _, _ in hooks_of(model))
    inside = tuple(f"{name}." for name in inserted)
    return {n: x for n, x in layers.items() if n not in inserted and not n.startswith(inside)}


def replacing_classes() -> tuple[type, ...]:
    """The mechanisms that take the place of a convolution."""
    return tuple(entry.cls for entry in list_attentions() if entry.replaces_conv)


def attention_prefixes(network: nn.Layer) -> tuple[str, ...]:
    """Prefixes of the state_dict keys of all attention in a network, such as ``('layer1.0.attention.',)``.

    That is what hooks call, what has replaced a convolution, and this library's layers wherever
    a network has them: no name of a sublayer decides it.
    """
    found, kinds = [], (AttentionLayer, *replacing_classes())
    for name, layer in network.named_sublayers(include_self=True):
        if name and isinstance(layer, kinds):
            found.append(f"{name}.")
        found += [f"{name}.{hook.name}." if name else f"{hook.name}." for hook in attention_hooks(layer)]
    found = list(dict.fromkeys(found))
    return tuple(p for p in found if not any(p != other and p.startswith(other) for other in found))


def attach(
    layer: nn.Layer,
    attention: nn.Layer,
    kind: type[ApplyAttention],
    where: str,
    branch_start: nn.Layer | None = None,
) -> str:
    """Make ``attention`` a sublayer of ``layer``, called by a hook of it.

    Args:
        layer, attention (paddle.nn.Layer): the layers.
        kind (type): :class:`ApplyAttention` or one of its subclasses.
        where (str): dotted name of ``layer`` in the network.
        branch_start (paddle.nn.Layer, optional): for :class:`ApplyToShortcut`, the layer that begins
            the block's branch.

    Returns:
        str: dotted name of the sublayer.
    """
    keep_through_conversions()
    copy_mode(attention, layer)
    name = free_name(layer)
    layer.add_sublayer(name, attention)
    hook = kind(name)
    hook.key = f"{where}.{name}" if where else name
    if isinstance(hook, ApplyBefore):
        layer.register_forward_pre_hook(hook)
    else:
        layer.register_forward_post_hook(hook)
        # Before all other hooks, so that those that take features see what attention returns.
        hooks = layer._forward_post_hooks
        for hook_id, _ in sorted(hooks.items(), key=lambda item: not isinstance(item[1], ApplyAttention)):
            hooks.move_to_end(hook_id)
    if isinstance(hook, ApplyToShortcut) and branch_start is not None:
        handle = branch_start.register_forward_pre_hook(BypassAttention(hook))
        branch_start._forward_pre_hooks.move_to_end(
            handle._hook_id, last=False
        )  # before attention on the branch
    return hook.key


def detach(layer: nn.Layer, name: str, others: Iterable[nn.Layer]) -> None:
    """Undo :func:`attach`; ``others`` are the layers among which the branch's start is."""
    removed = []
    for hooks in (layer._forward_pre_hooks, layer._forward_post_hooks):
        for hook_id, hook in list(hooks.items()):
            if isinstance(hook, ApplyAttention) and hook.name == name:
                removed.append(hooks.pop(hook_id))
    for other in others:
        for hook_id, hook in list(other._forward_pre_hooks.items()):
            if isinstance(hook, BypassAttention) and hook.shortcut in removed:
                del other._forward_pre_hooks[hook_id]
    layer._sub_layers.pop(name, None)


def copy_mode(attention: nn.Layer, layer: nn.Layer) -> None:
    """Train or evaluate as ``layer`` does."""
    for sublayer in attention.sublayers(include_self=True):
        sublayer.training = layer.training
