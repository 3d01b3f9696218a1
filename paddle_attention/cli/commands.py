"""The commands: ``do_<command>(options)``."""

from __future__ import annotations

import argparse
import logging
import os

from .. import ppcls
from .deploying import do_export_model, do_predict
from .loading import load

__all__ = ["do_export_model", "do_predict"]  # those of other modules

logger = logging.getLogger("ppcls")


def do_train(options: argparse.Namespace) -> None:
    """Train; the checkpoints are in ``Global.output_dir``."""
    if options.freeze_backbone is not None:
        options.override.append(f"Global.freeze_backbone_epochs={options.freeze_backbone}")
    if options.attention_lr_mult is not None:
        options.override.append(f"Arch.attention_lr_mult={options.attention_lr_mult}")
    if options.check_data and options.paddleclas is not None:
        raise ValueError(
            "--check-data belongs to the embedded engine; leave out --paddleclas and PADDLECLAS_HOME"
        )
    if _run_in_source_tree(options, "train.py"):
        return
    from ..engine import Engine

    config = load(options, "train")
    on_step, profile = None, options.profiler_options or config.get("profiler_options")
    if profile:

        def on_step() -> None:
            ppcls.profiler_step(profile)

    engine = Engine(config, ppcls.build_network, "train", on_step)
    if options.check_data:
        engine.check_data()
    if (config.get("Global") or {}).get("log_attention"):
        from .visualize import attention_log

        engine.on_epoch = attention_log(engine)
    best = engine.train()
    logger.info(f"best {engine.meters.decisive}: {best:.5f}" if engine.evaluates else "trained")
    logger.info(f"checkpoints: {os.path.abspath(engine.output_dir)}")


def do_eval(options: argparse.Namespace) -> None:
    """Evaluate ``Global.pretrained_model``."""
    if not _run_in_source_tree(options, "eval.py"):
        from ..engine import Engine

        Engine(load(options, "eval"), ppcls.build_network, "eval").evaluate()


def do_infer(options: argparse.Namespace) -> None:
    """Classify ``Infer.infer_imgs`` with ``Global.pretrained_model``."""
    if not _run_in_source_tree(options, "infer.py"):
        from ..engine import Engine

        Engine(load(options, "infer"), ppcls.build_network, "infer").infer()


def do_visualize(options: argparse.Namespace) -> None:
    """Draw what attention does with photographs."""
    from .visualize import visualize

    for path in visualize(options):
        print(path)


def do_summary(options: argparse.Namespace) -> None:
    """Print the network of a YAML as a tree."""
    from ..analysis import summarize, summary_lines
    from ..config import check_config, move_class_num

    config = load(options, "summary")
    check_config(config, "summary", whole=options.paddleclas is None)
    move_class_num(config)
    config["Arch"].pop("infer_add_softmax", None)
    network = ppcls.build_network(config, "summary")
    shape = (config.get("Global") or {}).get("image_shape") or [3, 224, 224]
    for line in summary_lines(summarize(network, [64 if size is None else size for size in shape])):
        print(line)


def do_convert_torch_weights(options: argparse.Namespace) -> None:
    """Write the weights of ``source`` as ``target``."""
    import yaml

    from .. import layers
    from ..checkpoint import load_torch_weights, save_weights
    from ..registry import build_attention, list_attentions

    if not options.target.endswith((".pdparams", ".safetensors")):
        raise ValueError(f"{options.target}: the target must end in .pdparams or .safetensors")
    if options.config:
        if options.channels or options.argument:
            raise ValueError("--channels and --argument belong to --layer, not to --config")
        target = ppcls.build_network(ppcls.load_config(options.config, []), "export")
    else:
        if options.channels is None:
            raise ValueError("--layer needs --channels")
        arguments = {}
        for item in options.argument:
            key, separator, value = item.partition("=")
            if not separator or not key:
                raise ValueError(f"--argument {item!r}: expected KEY=VALUE")
            arguments[key] = yaml.safe_load(value)
        if options.layer in layers.__all__ and options.layer not in {e.name for e in list_attentions()}:
            try:
                target = getattr(layers, options.layer)(options.channels, **arguments)
            except TypeError as error:
                raise ValueError(f"{options.layer}: {error}") from error
        else:
            target = build_attention(options.layer, options.channels, **arguments)
    load_torch_weights(target, options.source, options.dialect)
    save_weights(target.state_dict(), options.target)
    print(f"{len(target.state_dict())} tensors written to {os.path.abspath(options.target)}")


def do_convert_weights(options: argparse.Namespace) -> None:
    """Write Paddle's weights ``source`` as ``target``: .pdparams to .safetensors or back."""
    from ..checkpoint import read_state_dict, save_weights

    state = read_state_dict(options.source)
    save_weights(state, options.target)
    print(f"{len(state)} tensors written to {os.path.abspath(options.target)}")


def do_new(options: argparse.Namespace) -> None:
    """Write the two files of a new mechanism."""
    from .new import write_skeletons

    print(write_skeletons(options.name))


def do_list(options: argparse.Namespace) -> None:
    """Print the registered mechanisms and the networks."""
    from ..networks import list_networks
    from ..registry import list_attentions

    rows = [("name", "class", "year", "arXiv", "domain", "weights from", "applied by", "paper")]
    rows += [
        (e.name, e.cls.__name__, str(e.year), e.arxiv or "-", e.domain, e.computed_by, e.applied_by, e.paper)
        for e in list_attentions()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\nnetworks: AttentionNet, " + ", ".join(list_networks()))


def do_get_paddleclas(options: argparse.Namespace) -> None:
    """Fetch PaddleClas' source tree."""
    directory = ppcls.get_paddleclas(options.directory, options.source, options.commit)
    print(f"PaddleClas is in {directory}; use it with --paddleclas {directory}, or")
    print(f"export PADDLECLAS_HOME={directory}")


def do_configs(options: argparse.Namespace) -> None:
    """Print the YAMLs that come with this library, for ``-c``."""
    from ..config import shipped_configs

    for name, path in shipped_configs().items():
        print(f"{path.name:45} {name}")


def do_recipes(options: argparse.Namespace) -> None:
    """Print which YAMLs of a folder the engines train, and why not the others."""
    from ..analysis import write_between_markers
    from .recipes import document, own_reasons, recipe_reasons

    if options.results and not options.paddleclas:
        raise ValueError("--results belongs to --paddleclas DIR, whose results it keeps")
    if options.paddleclas:
        ppcls.register(options.paddleclas)
    reasons, own = recipe_reasons(options.directory), None
    if options.each:
        for path, reason in reasons.items():
            print(f"{path}: {reason or 'ok'}")
    if options.paddleclas:
        own = {}
        arguments = options.directory, options.paddleclas, list(reasons), options.workers, options.limit
        for path, reason in own_reasons(*arguments, options.results):
            own[path] = reason
            logger.info(f"{len(own)}/{len(reasons)} {path}: {reason or 'starts training'}")
    text = document(reasons, own)
    print(text)
    if options.write:
        write_between_markers(options.write, {"recipes": text})


def do_run(options: argparse.Namespace) -> None:
    """Run a PaddleClas script."""
    ppcls.run_script(options.script, options.arguments)


def do_install(options: argparse.Namespace) -> None:
    """Add the networks to a checkout."""
    done = ppcls.install(options.directory)
    print(f"{options.directory}: {'installed' if done else 'was installed already'}")


def do_uninstall(options: argparse.Namespace) -> None:
    """Take the networks out of a checkout."""
    done = ppcls.uninstall(options.directory)
    print(f"{options.directory}: {'uninstalled' if done else 'was not installed'}")


def do_digits(options: argparse.Namespace) -> None:
    """Write the digits data set."""
    from .digits import write_digits

    counts = write_digits(options.directory)
    print(f"{os.path.abspath(options.directory)}: {counts[0]} training and {counts[1]} test images")


def _run_in_source_tree(options: argparse.Namespace, script: str) -> bool:
    """Hand over to PaddleClas' own tool where a source tree was given."""
    if options.paddleclas is None:
        return False
    from ..config import find_config

    arguments = ["-c", find_config(options.config)]
    for override in options.override:
        arguments += ["-o", override]
    if getattr(options, "profiler_options", None):
        arguments += ["-p", options.profiler_options]
    ppcls.run_script(os.path.join(options.paddleclas, "tools", script), arguments)
    return True
