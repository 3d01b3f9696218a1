"""Find PaddleClas, register the networks in it, and use the parts of it that the engine needs."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import paddle
from paddle import nn

from ..config import ConfigError, DataError, find_config, read_config
from ..config.schema import OWN_KEYS
from . import backbones, sections
from .guard import guard_folder, guarded

if TYPE_CHECKING:
    from ..config.reading import Config


def find_paddleclas(source_tree: str | None = None) -> str:
    """Make ``import ppcls`` work and return the directory that holds the ``ppcls`` package.

    Args:
        source_tree (str, optional): a PaddleClas checkout. Default: a ``ppcls``
            that can be imported already, else the one inside the installed
            ``paddleclas`` package (which has the networks but no engine).

    Raises:
        FileNotFoundError: if ``source_tree`` is not a PaddleClas checkout.
        ModuleNotFoundError: if there is no PaddleClas at all.
        RuntimeError: if another PaddleClas has been imported before.
    """
    if source_tree is not None:
        root = os.path.abspath(source_tree)
        if not os.path.isfile(os.path.join(root, "ppcls", "arch", "__init__.py")):
            raise FileNotFoundError(
                f"{source_tree!r} is not a PaddleClas source tree: it has no ppcls/arch/__init__.py"
            )
        # At the end, as PaddleClas' scripts do it: a checkout also holds a paddleclas.py, which must
        # not hide the installed package. Before another ppcls, should there be one.
        if importlib.util.find_spec("ppcls") is None:
            sys.path.append(root)
        else:
            _put_first(root)
    elif "ppcls" not in sys.modules and importlib.util.find_spec("ppcls") is None:
        package = importlib.util.find_spec("paddleclas")
        if package is None or not package.submodule_search_locations:
            raise ModuleNotFoundError(
                "PaddleClas was not found; run pip install paddleclas, or give a source tree with "
                "--paddleclas DIR or PADDLECLAS_HOME"
            )
        # At the end as well: the package holds a paddleclas.py of its own, which must not hide it.
        sys.path.append(next(iter(package.submodule_search_locations)))
    spec = importlib.util.find_spec("ppcls")
    guard_folder(next(iter(spec.submodule_search_locations)))  # type: ignore[union-attr,arg-type]
    found = os.path.dirname(next(iter(importlib.import_module("ppcls").__path__)))
    if source_tree is not None and not os.path.samefile(found, source_tree):
        raise RuntimeError(
            f"PaddleClas was already imported from {found}; {source_tree} can only be used from the start"
        )
    return found


def _put_first(directory: str) -> None:
    if directory in sys.path:
        sys.path.remove(directory)
    sys.path.insert(0, directory)


def register(source_tree: str | None = None) -> list[str]:
    """Add the networks of this library to ``ppcls.arch``; calling it again changes nothing.

    They are then found by ``Arch.name`` in any PaddleClas YAML, by
    ``ppcls.arch.build_model``, and as the backbone of a ``RecModel``.

    Returns:
        list of str: the registered names.

    Raises:
        ValueError: if PaddleClas has a network of its own under one of the names.
    """
    find_paddleclas(source_tree)
    arch = importlib.import_module("ppcls.arch")
    for name in backbones.__all__:
        factory = getattr(backbones, name)
        present = getattr(arch, name, factory)
        if present is not factory:
            raise ValueError(
                f"PaddleClas already has a network {name!r} ({present.__module__}); it is not replaced"
            )
        setattr(arch, name, factory)
        setattr(arch.backbone, name, factory)
    return list(backbones.__all__)


def build_network(config: dict[str, Any], mode: str = "train") -> nn.Layer:
    """``ppcls.arch.build_model`` for the ``Arch`` section of a parsed YAML.

    Only for training are pretrained weights fetched: in every other mode a
    checkpoint replaces them all.

    Raises:
        ValueError: for an unknown ``Arch.name`` or argument.
    """
    register()
    arch = importlib.import_module("ppcls.arch")
    name = config["Arch"].get("name")
    sections.check(config["Arch"])
    if mode != "train":
        section = {k: v for k, v in config["Arch"].items() if k not in ("pretrained", "use_sync_bn")}
        if isinstance(section.get("backbone"), dict):
            section["backbone"] = {k: v for k, v in section["backbone"].items() if k != "pretrained"}
        config = {**config, "Arch": section}
    with guarded():
        try:
            if "mode" in inspect.signature(arch.build_model).parameters:
                network = arch.build_model(config, mode)
            else:
                network = arch.build_model(config["Arch"])  # PaddleClas up to 2.3
            sections.check_all_used(config["Arch"], network)
            return network
        except (ConfigError, DataError) as error:
            path = "" if str(error).startswith("Arch.") else "Arch: "
            raise type(error)(f"{path}{error}") from error
        except ValueError as error:
            path = sections.path_of(error, config["Arch"])
            if path == "Arch":
                raise
            raise ValueError(f"{path}{str(error).removeprefix('Arch')}") from error
        except OSError:
            raise
        except RuntimeError as error:
            told = backbones.explain_download(error, name)
            raise told if told is not error else ConfigError(f"Arch: {name}: {error}") from error
        except Exception as error:  # PaddleClas' networks raise nearly anything for wrong arguments
            raise ConfigError(f"Arch: {name}: {type(error).__name__}: {error}") from error


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML with PaddleClas' ``-o key.sub=value`` overrides; nothing in it is evaluated.

    Returns:
        :class:`paddle_attention.config.Config`.

    Raises:
        FileNotFoundError: if there is no such file, here or among the YAMLs of this library.
        ConfigError: for a file that is not YAML, and an override that is not ``key=value`` or
            names a place the YAML cannot have.
    """
    config = read_config(find_config(path), overrides)
    # Label lists such as ppcls/utils/imagenet1k_label_list.txt come with PaddleClas.
    infer = config.get("Infer")
    post = infer.get("PostProcess") if isinstance(infer, dict) else None
    names = post.get("class_id_map_file") if isinstance(post, dict) else None
    if isinstance(post, dict) and isinstance(names, str) and not os.path.exists(names):
        inside = os.path.join(find_paddleclas(), names)
        if os.path.isfile(inside):
            post["class_id_map_file"] = inside
    return config


def check_config_file(path: str, overrides: Sequence[str]) -> None:
    """Build the network of a YAML and drop it, so that a mistake shows before PaddleClas reads any data.

    Neither random numbers nor the names of parameters are used up.

    Raises:
        ValueError: for what is wrong in the YAML, the overrides or the ``Arch`` section of a
            network of this library; and for settings only the embedded engine knows.
    """
    config = load_config(path, overrides)
    settings, section = config.get("Global") or {}, config.get("Arch") or {}
    for key, value in (("Global", settings), ("Arch", section)):
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: must be a dict, but got {value!r}")
    for key in OWN_KEYS:
        if settings.get(key):
            raise ConfigError(
                f"Global.{key}: PaddleClas' own engine cannot do this; use tools/train.py without a PaddleClas "
                "source tree"
            )
    prefix = settings.get("checkpoints")
    if isinstance(prefix, str) and prefix != "auto" and not os.path.isfile(prefix + ".pdparams"):
        raise ConfigError(f"Global.checkpoints: there is no file {prefix + '.pdparams'!r}")
    if prefix == "auto":
        raise ConfigError(
            "Global.checkpoints: PaddleClas' own engine knows no 'auto'; name the checkpoint, such as "
            f"{os.path.join(str(settings.get('output_dir') or './output'), 'latest')}"
        )
    own = [part for _, part in sections.parts(section) if part.get("name") in backbones.__all__]
    if section.get("name") not in backbones.__all__ and not own:
        for path, part in sections.parts(section):  # one line, where PaddleClas' own is a traceback
            sections.check_name(path, part.get("name"))
        return
    module: Any = importlib.import_module("ppcls.utils.logger")
    state, logger = paddle.get_rng_state(), module._logger
    module._logger = logger or logging.getLogger("ppcls.check")  # networks log while they are built
    try:
        with paddle.utils.unique_name.guard():
            build_network({**config, "Arch": dict(section)}, "check")
    finally:
        module._logger = logger
        paddle.set_rng_state(state)


def init_logger(log_file: str | None = None) -> None:
    """Start PaddleClas' logger ``ppcls`` (its networks need it), also writing to ``log_file``."""
    find_paddleclas()
    module: Any = importlib.import_module("ppcls.utils.logger")
    try:
        module.init_logger(log_file=log_file)
    except AssertionError:  # PaddleClas before 2.4 expects one command in a process
        for handler in list(module._logger.handlers):
            if type(handler) in (logging.StreamHandler, logging.FileHandler):
                module._logger.removeHandler(handler)
                handler.close()
        module._logger = None
        module.init_logger(log_file=log_file)


def profiler_step(options: str | None) -> None:
    """Tell PaddleClas' profiler that a training step begins; ``options`` are those of ``-p``."""
    importlib.import_module("ppcls.utils.profiler").add_profiler_step(options)
