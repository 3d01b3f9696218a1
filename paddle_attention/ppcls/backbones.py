"""Network factories in PaddleClas' own form: ``SE_ResNet50(pretrained=False, use_ssld=False, **kwargs)``.

PaddleClas is imported when a factory is called, not before, so that this module
can stand in PaddleClas' own list of backbones.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paddle import nn

from ..config import ConfigError, DataError, parse_value
from ..insertion import PLACE_KEYS, insert_attention
from ..naming import did_you_mean
from ..networks import BACKBONES, get_network, list_networks, set_output_stride
from ..networks import stride_in_1x1 as _move_strides
from ..registry import attention_arguments, list_attentions
from .arguments import check_used
from .guard import guarded

if TYPE_CHECKING:
    from ..networks.presets import NetworkPreset

_logger = logging.getLogger("ppcls")


def AttentionNet(
    backbone: str | dict[str, Any] | None = None,
    attention: str | dict[str, Any] | list[Any] | None = None,
    class_num: int | None = None,
    pretrained: bool | str = False,
    use_ssld: bool = False,
    output_stride: int | None = None,
    stride_in_1x1: bool = False,
    attention_lr_mult: float = 1.0,
    input_shape: Sequence[int] | None = None,
    **kwargs: Any,
) -> nn.Layer:
    """Any PaddleClas backbone with attention inserted into it.

    Args:
        backbone (str or dict): a PaddleClas network: its name, or a dict of
            ``name`` and its arguments.
        attention (str, dict or list): what to insert and where, see
            :func:`paddle_attention.insert_attention`; an empty list for nothing.
        class_num (int, optional): number of classes.
        pretrained (bool or str): the *backbone's* weights: True for
            PaddleClas' own, a str for a ``.pdparams`` file.
        use_ssld (bool): with ``pretrained=True``, the distilled weights.
        output_stride (int, optional): 8, 16 or 32: dilate the backbone, see
            :func:`paddle_attention.networks.set_output_stride`.
        stride_in_1x1 (bool): the stride of each bottleneck on its first 1x1 convolution, as
            in the papers, and not on the 3x3.
        attention_lr_mult (float): the attention's learning rate is the schedule's times this.
        input_shape (list of int, optional): ``[C, H, W]`` of the trial image, for a backbone
            that takes only certain sizes.
        **kwargs: more arguments of the backbone.

    Raises:
        ValueError: for an unknown backbone, mechanism or argument, a placement
            that matches nothing, or weights that do not fit.
    """
    if isinstance(backbone, str):
        backbone = {"name": backbone}
    if not isinstance(backbone, Mapping) or "name" not in backbone:
        raise ValueError(
            "Arch.backbone: must be a network name or a dict with a 'name', such as "
            f"{{'name': 'ResNet50'}}, but got {backbone!r}"
        )
    if not isinstance(stride_in_1x1, bool):
        raise ValueError(f"Arch.stride_in_1x1: must be True or False, but got {stride_in_1x1!r}")
    if attention is None:
        raise ValueError("Arch.attention: attention is missing; give a list such as [{'name': 'SE'}]")
    if (
        isinstance(attention_lr_mult, bool)
        or not isinstance(attention_lr_mult, (int, float))
        or not 0 <= attention_lr_mult < math.inf
    ):
        raise ValueError(f"Arch.attention_lr_mult: must be a number from 0, but got {attention_lr_mult!r}")
    arguments = {k: v for k, v in backbone.items() if k != "name"}
    given = {"class_num": class_num, "pretrained": pretrained or None, "use_ssld": use_ssld or None, **kwargs}
    for key, value in given.items():
        if value is None:
            continue
        if key in arguments and arguments[key] != value:
            raise ValueError(
                f"Arch: {key} is given twice, as {value!r} and as backbone.{key}={arguments[key]!r}"
            )
        arguments[key] = value
    network = _build_backbone(backbone["name"], arguments, _attention_keys(attention))
    try:
        if stride_in_1x1:
            _move_strides(network)
        if output_stride is not None:
            set_output_stride(network, output_stride)
    except ValueError as error:
        raise ValueError(f"Arch.{error}") from error
    if isinstance(attention, str) and attention.strip()[:1] in ("[", "{"):  # PaddleClas' -o gives it as it is
        attention = parse_value(attention, "Arch.attention")
    try:
        inserted = insert_attention(network, attention, input_shape=input_shape) if attention != [] else ()
    except ValueError as error:
        path = "Arch." if str(error).startswith("attention.") else "Arch.attention: "
        raise ValueError(f"{path}{error}") from error
    layers = dict(network.named_sublayers())
    for insertion in inserted:
        _logger.debug("inserted %s", insertion)
        for parameter in layers[insertion.key].parameters() if attention_lr_mult != 1 else ():
            parameter.optimize_attr["learning_rate"] *= attention_lr_mult
    return network


def _attention_keys(attention: Any) -> list[str]:
    """Keys of the mechanisms of a specification, as far as it is one."""
    items = attention if isinstance(attention, (list, tuple)) else [attention]
    names = [item.get("name") if isinstance(item, Mapping) else item for item in items]
    known = {entry.name for entry in list_attentions()}
    own = [
        key for name in names if isinstance(name, str) and name in known for key in attention_arguments(name)
    ]
    return [*PLACE_KEYS, *own]


_OWN = (
    "name",
    "attention",
    "attention_lr_mult",
    "backbone",
    "input_shape",
    "output_stride",
    "stride_in_1x1",
)


def _preset_factory(preset: NetworkPreset) -> Callable[..., Any]:
    def factory(pretrained: bool = False, use_ssld: bool = False, **kwargs: Any) -> nn.Layer:
        if "backbone" in kwargs:
            raise ValueError(
                f"Arch.backbone: {preset.name} has its own; for another use the name AttentionNet"
            )
        attention, kwargs = tuned(preset, kwargs)
        return AttentionNet(
            backbone=preset.backbone,
            attention=attention,
            pretrained=pretrained,
            use_ssld=use_ssld,
            **{**preset.options, **kwargs},
        )

    factory.__name__ = factory.__qualname__ = preset.name
    factory.__doc__ = f"""{preset.backbone} with {list(preset.attention)}.

    Args:
        attention (str, dict or list): to be inserted instead.
        pretrained (bool or str): weights of {preset.backbone}: True for
            PaddleClas' own, a str for a ``.pdparams`` file.
        use_ssld (bool): with ``pretrained=True``, the distilled weights.
        **kwargs: arguments of the mechanism and its place, such as ``reduction`` or ``stages``,
            and of PaddleClas' {preset.backbone}, such as ``class_num``.
    """
    return factory


def tuned(preset: NetworkPreset, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A named network's attention with the keys of ``given`` that are its own, and the other keys.

    A key of a mechanism, or of its place, changes each item of the network's list that knows it;
    ``attention`` replaces the whole list.

    Raises:
        ValueError: for a place, where the network's own list has several.
    """
    rest = dict(given)
    if "attention" in rest:
        return rest.pop("attention"), rest
    items = [dict(item) for item in preset.attention]
    for key in given:
        fitting = [item for item in items if key in (*PLACE_KEYS, *attention_arguments(item["name"]))]
        if fitting and key in PLACE_KEYS and len(items) > 1:
            raise ValueError(
                f"Arch.{key}: {preset.name} has {len(items)} attentions, each with a place of its own; write the whole "
                f"list instead, as Arch.attention: {items}"
            )
        for item in fitting:
            item[key] = given[key]
        if fitting:
            del rest[key]
    return items, rest


globals().update(BACKBONES)
globals().update({name: _preset_factory(get_network(name)) for name in list_networks()})
__all__ = ["AttentionNet", *BACKBONES, *list_networks()]


def _build_backbone(name: str, arguments: dict[str, Any], also: Sequence[str] = ()) -> nn.Layer:
    """PaddleClas' network; ``also`` are further keys that may have been meant by an unknown one."""
    arch = importlib.import_module("ppcls.arch")
    factory: Any = getattr(arch, name, BACKBONES.get(name)) if isinstance(name, str) else None
    if not is_network(factory):
        known = [n for n, v in vars(arch.backbone).items() if is_network(v)]
        raise ValueError(
            f"Arch.backbone.name: PaddleClas has no backbone {name!r}{did_you_mean(name, [*known, *BACKBONES])}"
        )
    weights = arguments.get("pretrained", False)
    if isinstance(weights, str) or "pretrained" not in arguments:
        arguments = {**arguments, **_no_weights(factory)}
    try:
        with guarded():
            network = factory(**arguments)
    except (ConfigError, DataError) as error:
        raise type(error)(f"Arch.backbone: {name}: {error}") from error
    except TypeError as error:
        raise ValueError(f"Arch.backbone: {name}: {error}") from error
    except RuntimeError as error:
        raise explain_download(error, name) from error
    check_used("Arch", name, factory, type(network), arguments, [*_OWN, *also])
    if isinstance(weights, str):
        _load_backbone_weights(network, weights)
    return network


def explain_download(error: RuntimeError, name: str) -> Exception:
    """What to do where PaddleClas could not fetch weights; any other error as it is."""
    found = re.search(r"https?://\S+", str(error))
    if found is None or "ownload" not in str(error):
        return error
    return ValueError(
        f"Arch.pretrained: the weights of {name} could not be fetched from {found[0]}; download this file where "
        "there is a network, and give its path instead: pretrained: /path/to/the/file.pdparams"
    )


def is_network(value: Any) -> bool:
    """Whether ``Arch.name`` may name it: no helper that ``ppcls.arch`` imports beside the networks."""
    if not (inspect.isroutine(value) or inspect.isclass(value)):
        return False
    module, name = getattr(value, "__module__", None) or "", getattr(value, "__name__", "")
    helpers = ("paddle.", "ppcls.utils", "ppcls.arch.utils", "ppcls.arch.gears", "ppcls.arch.slim")
    return not module.startswith(helpers) and name not in ("build_model", "apply_to_static", "get_apis")


def _no_weights(factory: Callable[..., Any]) -> dict[str, bool]:
    """Some factories fetch weights unless they are told not to; some take no such argument."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    return {"pretrained": False} if "pretrained" in parameters else {}


def _load_backbone_weights(network: nn.Layer, path: str) -> None:
    """Load a backbone checkpoint; everything but the classifier must fit."""
    from ..checkpoint import load_weights

    report = load_weights(network, path, skip_classifier=True)
    _logger.info("Finish load pretrained model from %s: %s", path, report)
