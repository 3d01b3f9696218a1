"""Network factories in PaddleClas' own form: ``SE_ResNet50(pretrained=False, use_ssld=False, **kwargs)``.

PaddleClas is imported when a factory is called, not before, so that this module
can stand in PaddleClas' own list of backbones.
"""

import ast
import importlib
import inspect
import logging
import textwrap
from collections.abc import Mapping

from ..insertion import insert_attention
from ..naming import did_you_mean
from ..networks import get_network, list_networks

_logger = logging.getLogger("ppcls")


def AttentionNet(backbone=None, attention=None, class_num=None, pretrained=False, use_ssld=False, **kwargs):
    """Any PaddleClas backbone with attention inserted into it.

    Args:
        backbone (str or dict): a PaddleClas network: its name, or a dict of
            ``name`` and its arguments.
        attention (str, dict or list): what to insert and where, see
            :func:`paddle_attention.insert_attention`.
        class_num (int, optional): number of classes.
        pretrained (bool or str): the *backbone's* weights: True for
            PaddleClas' own, a str for a ``.pdparams`` file.
        use_ssld (bool): with ``pretrained=True``, the distilled weights.
        **kwargs: more arguments of the backbone.

    Raises:
        ValueError: for an unknown backbone, mechanism or argument, a placement
            that matches nothing, or weights that do not fit.
    """
    if isinstance(backbone, str):
        backbone = {"name": backbone}
    if not isinstance(backbone, Mapping) or "name" not in backbone:
        raise ValueError(
            "AttentionNet: backbone must be a network name or a dict with a 'name', such as "
            f"{{'name': 'ResNet50'}}, but got {backbone!r}"
        )
    if attention is None:
        raise ValueError("AttentionNet: attention is missing; give a list such as [{'name': 'SE'}]")
    arguments = {k: v for k, v in backbone.items() if k != "name"}
    given = {"class_num": class_num, "pretrained": pretrained or None, "use_ssld": use_ssld or None, **kwargs}
    for key, value in given.items():
        if value is None:
            continue
        if key in arguments and arguments[key] != value:
            raise ValueError(
                f"AttentionNet: {key} is given twice, as {value!r} and as backbone.{key}={arguments[key]!r}"
            )
        arguments[key] = value
    network = _build_backbone(backbone["name"], arguments)
    for insertion in insert_attention(network, attention):
        _logger.debug("inserted %s", insertion)
    return network


def _preset_factory(preset):
    def factory(pretrained=False, use_ssld=False, **kwargs):
        return AttentionNet(
            backbone=preset.backbone,
            attention=list(preset.attention),
            pretrained=pretrained,
            use_ssld=use_ssld,
            **kwargs,
        )

    factory.__name__ = factory.__qualname__ = preset.name
    factory.__doc__ = f"""{preset.backbone} with {list(preset.attention)}.

    Args:
        pretrained (bool or str): weights of {preset.backbone}: True for
            PaddleClas' own, a str for a ``.pdparams`` file.
        use_ssld (bool): with ``pretrained=True``, the distilled weights.
        **kwargs: arguments of PaddleClas' {preset.backbone}, such as ``class_num``.
    """
    return factory


globals().update({name: _preset_factory(get_network(name)) for name in list_networks()})
__all__ = ["AttentionNet", *list_networks()]


def _build_backbone(name, arguments):
    arch = importlib.import_module("ppcls.arch")
    factory = getattr(arch, name, None) if isinstance(name, str) else None
    if not callable(factory):
        raise ValueError(f"PaddleClas has no backbone {name!r}{did_you_mean(name, vars(arch.backbone))}")
    weights = arguments.get("pretrained", False)
    if isinstance(weights, str):
        arguments = {**arguments, "pretrained": False}
    try:
        network = factory(**arguments)
    except TypeError as error:
        raise ValueError(f"backbone {name}: {error}") from error
    known = accepted_arguments(factory, type(network))
    for argument in arguments:
        if argument not in known:
            raise ValueError(
                f"backbone {name} takes no argument {argument!r}{did_you_mean(argument, known)} "
                f"(it takes: {', '.join(sorted(known))})"
            )
    if isinstance(weights, str):
        _load_backbone_weights(network, weights)
    return network


def accepted_arguments(factory, network_class):
    """Names of the arguments that a PaddleClas factory really uses.

    Most factories take ``**kwargs`` and hand them to the class, and many
    classes take ``**kwargs`` and drop them. A ``**kwargs`` that the function
    body never reads accepts nothing here, and one that it only picks names from
    accepts those.
    """
    names = set()
    chain = [factory, *(c.__init__ for c in network_class.__mro__ if "__init__" in vars(c))]
    for function in chain:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            break
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names |= {p.name for p in parameters if p.kind in named}
        rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        handed_on, picked = (False, set()) if rest is None else _uses(function, rest)
        names |= picked
        if not handed_on:
            break
        if function is not factory:  # TheseusLayer.__init__ hands its arguments to init_net
            init_net = getattr(network_class, "init_net", None)
            if init_net is not None:
                names |= set(inspect.signature(init_net).parameters)
    return names - {"self", "args", "kwargs", "cls"}


def _uses(function, name):
    """How the dict ``name`` is used in ``function``: ``(handed on whole, keys picked by name)``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return True, set()

    def is_it(node):
        return isinstance(node, ast.Name) and node.id == name

    picked, accounted = set(), 0
    for node in ast.walk(tree):
        key = None
        if isinstance(node, ast.Subscript) and is_it(node.value):
            key = node.slice
        elif isinstance(node, ast.Compare) and any(is_it(c) for c in node.comparators):
            key = node.left
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_it(node.func.value):
            key = node.args[0] if node.args else None
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            picked.add(key.value)
            accounted += 1
    return sum(map(is_it, ast.walk(tree))) > accounted, picked


def _load_backbone_weights(network, path):
    """Load a backbone checkpoint; everything but the classifier must fit."""
    from ..weights import load_weights

    report = load_weights(network, path, skip_classifier=True)
    _logger.info("Finish load pretrained model from %s: %s", path, report)
