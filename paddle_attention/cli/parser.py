"""The command line: every command and its options. Nothing here needs Paddle."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any

_CONFIG_COMMANDS = {
    "train": "train a network from a YAML",
    "eval": "evaluate a checkpoint",
    "infer": "classify images with a checkpoint",
    "export_model": "export a checkpoint for Paddle Inference, ONNX Runtime or OpenVINO and verify the result",
    "predict": "classify images with an exported model",
}


# Of ppcls/fetching.py, which this module must not import: that would import Paddle.
_SOURCE = "https://github.com/PaddlePaddle/PaddleClas.git"
_COMMIT = "d178931fca432204e6b7422bac4f92e09ff22fa4"


_FORMATS = ("paddle", "onnx", "openvino", "int8")  # of deploy/formats.py


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, but got {text!r}")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, but got {text!r}")
    return value


def _profiler_options(text: str) -> str:
    if not re.fullmatch(r"[^=;]+=[^=;]*(;[^=;]+=[^=;]*)*", text):
        raise argparse.ArgumentTypeError(f"must be key1=value1;key2=value2, but got {text!r}")
    return text


def build_parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=None if command else "python -m paddle_attention",
        description="Attention mechanisms for PaddlePaddle and PaddleClas.",
    )
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help_text in _CONFIG_COMMANDS.items():
        prog = os.path.basename(sys.argv[0]) if command == name else None
        sub = subparsers.add_parser(name, help=help_text, description=help_text, prog=prog)
        _config_options(sub, training=name == "train")
        if name == "export_model":
            _export_options(sub)
        if name == "predict":
            _engine_options(sub)
    text = "print the network of a YAML as a tree: where attention is, parameters, multiply-adds"
    _config_options(subparsers.add_parser("summary", help=text, description=text))
    text = "draw what attention does with photographs: maps, excitation by class, class activation"
    prog = os.path.basename(sys.argv[0]) if command == "visualize" else None
    sub = subparsers.add_parser("visualize", help=text, description=text, prog=prog)
    _visualize_options(sub)
    _config_options(sub)
    subparsers.add_parser("configs", help="list the YAMLs that come with this library")
    sub = subparsers.add_parser("list", help="list the attention mechanisms and networks")
    _convert_options(
        subparsers.add_parser(
            "convert_torch_weights",
            help="turn the authors' PyTorch weights into a .pdparams file",
            description="Turn the authors' PyTorch weights of one layer, or of the network of a YAML, "
            "into a .pdparams file. Everything must fit.",
            prog=os.path.basename(sys.argv[0]) if command == "convert_torch_weights" else None,
        )
    )
    text = "turn a .pdparams file into .safetensors, or back, without running anything in it"
    sub = subparsers.add_parser("convert_weights", help=text, description=text)
    sub.add_argument("source", help=".pdparams or .safetensors, with Paddle's names")
    sub.add_argument("target", help=".safetensors or .pdparams")
    sub = subparsers.add_parser("run", help="run a PaddleClas script with the networks registered")
    sub.add_argument("script", help="such as tools/train.py, in a PaddleClas checkout")
    sub.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    _checkout_commands(subparsers)
    sub = subparsers.add_parser("digits", help="write scikit-learn's digits as images and lists")
    sub.add_argument("directory", nargs="?", default="./dataset/digits", metavar="DIR")
    for sub in subparsers.choices.values():
        sub.add_argument(
            "--traceback",
            action="store_true",
            default=argparse.SUPPRESS,
            help="show the whole traceback of an error",
        )
    return parser


def _checkout_commands(subparsers: Any) -> None:
    for name, text in (
        ("install", "add the networks to a PaddleClas checkout, so that its own tools know them"),
        ("uninstall", "undo install"),
    ):
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.add_argument("directory", metavar="DIR", help="a PaddleClas checkout")
    text = "fetch a PaddleClas source tree of a commit known to work, for --paddleclas"
    sub = subparsers.add_parser("get_paddleclas", help=text, description=text)
    sub.add_argument("directory", metavar="DIR", help="where to; a folder that does not exist yet")
    sub.add_argument(
        "--source", default=_SOURCE, metavar="URL", help="or the path of a local mirror (%(default)s)"
    )
    sub.add_argument("--commit", default=_COMMIT, help="commit, branch or tag (%(default)s)")
    text = "tell which YAMLs of a folder the engines train, and why not the others"
    sub = subparsers.add_parser("recipes", help=text, description=text)
    sub.add_argument("directory", metavar="DIR", help="such as PaddleClas/ppcls/configs/ImageNet")
    sub.add_argument("--each", action="store_true", help="print a line for every file as well")
    sub.add_argument("--write", metavar="FILE", help="put the table into this document")
    sub.add_argument(
        "--paddleclas",
        metavar="DIR",
        help="also start each with attention added, on a few generated images, in this source tree's engine "
        "(some seconds each)",
    )
    sub.add_argument("--workers", type=positive, default=1, help="processes at a time (%(default)s)")
    sub.add_argument(
        "--limit", type=positive, default=300, metavar="SECONDS", help="for one YAML (%(default)s)"
    )
    sub.add_argument(
        "--results", metavar="FILE", help="JSON of what is done with --paddleclas, to go on from"
    )
    text = "write the file of a new mechanism and the file of its tests, in a checkout"
    sub = subparsers.add_parser("new", help=text, description=text)
    sub.add_argument("name", help="such as MyGate")


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help=".pth, .pt, .bin or .safetensors")
    parser.add_argument("target", help="the .pdparams file to write")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--layer", metavar="NAME", help="a layer's name in the registry, or its class")
    what.add_argument("-c", "--config", help="a YAML, for its whole network")
    parser.add_argument("--channels", type=positive, help="channels of the layer")
    parser.add_argument(
        "-a",
        "--argument",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="further argument of the layer; may be repeated",
    )
    parser.add_argument("--dialect", help="'authors' or 'timm' (default: whose names fit)")


def _config_options(parser: argparse.ArgumentParser, training: bool = False) -> None:
    parser.add_argument(
        "-c",
        "--config",
        required=True,
        help="the YAML: a path, or the name of one of those that 'configs' lists",
    )
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY.SUB=VALUE",
        help="change one value of the YAML; may be repeated",
    )
    if training:
        parser.add_argument(
            "--freeze-backbone",
            type=positive,
            metavar="EPOCHS",
            help="train attention and classifier alone in the first epochs (Global.freeze_backbone_epochs)",
        )
        parser.add_argument(
            "--attention-lr-mult",
            type=float,
            metavar="FACTOR",
            help="the attention's learning rate, as a multiple of the schedule's (Arch.attention_lr_mult)",
        )
        parser.add_argument(
            "--check-data", action="store_true", help="read every image once before the first epoch"
        )
        parser.add_argument(
            "-p",
            "--profiler_options",
            metavar="OPTIONS",
            type=_profiler_options,
            help="profile training, as 'key1=value1;key2=value2' (see paddle's profiler)",
        )
    parser.add_argument(
        "--paddleclas",
        default=os.environ.get("PADDLECLAS_HOME") or None,
        metavar="DIR",
        help="use this PaddleClas source tree instead of the embedded engine (default: $PADDLECLAS_HOME)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        help="CPU threads (default: $OMP_NUM_THREADS, else all cores)",
    )


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        action="append",
        choices=_FORMATS,
        help="what to write; may be repeated (default: paddle)",
    )
    parser.add_argument(
        "--calibration",
        type=positive,
        default=256,
        metavar="N",
        help="images of DataLoader.Eval for int8: half to calibrate on, half to judge by (%(default)s)",
    )
    parser.add_argument(
        "--min-agreement",
        type=_fraction,
        default=0.98,
        metavar="SHARE",
        help="of the images whose class int8 must leave as it is (%(default)s)",
    )


def _engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine", default="paddle", choices=("paddle", "onnxruntime", "openvino"), help="(%(default)s)"
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "bf16", "int8"),
        help="of the computation (%(default)s)",
    )


def _visualize_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("maps", "excitation", "cam"), help="what to draw")
    parser.add_argument(
        "--images", metavar="PATH", help="an image, a folder or a list file (default: Infer.infer_imgs)"
    )
    parser.add_argument("--image-root", metavar="DIR", help="what the paths of the list are relative to")
    parser.add_argument("--output", default="./output/visualize", metavar="DIR", help="where the pictures go")
    parser.add_argument(
        "--layer", metavar="NAME", help="maps, excitation: a part of layers' names; cam: one layer"
    )
    parser.add_argument(
        "--limit", type=positive, default=20, help="images at most; excitation: of each class"
    )
    parser.add_argument(
        "--point",
        nargs=2,
        type=_fraction,
        metavar=("Y", "X"),
        help="query position, 0 to 1 (maps; default: the middle)",
    )
    parser.add_argument(
        "--classes", nargs="+", type=int, metavar="ID", help="classes to compare (excitation)"
    )
    parser.add_argument(
        "--class-id", type=int, metavar="ID", help="whose evidence (cam; default: the predicted class)"
    )
    parser.add_argument(
        "--beside",
        nargs=2,
        action="append",
        metavar=("CONFIG", "WEIGHTS"),
        help="another network to compare (cam)",
    )
