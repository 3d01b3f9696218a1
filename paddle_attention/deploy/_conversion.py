"""Run as a script, in a process of its own: convert an exported network. Converters end the process on what they cannot do.

python _conversion.py onnx PROGRAM WEIGHTS TARGET OPSET
python _conversion.py openvino ONNX TARGET
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

# Operators of Paddle's programs that paddle2onnx lists under the names they had in Paddle 2.
_OLD_NAMES = {
    "add": "elementwise_add",
    "subtract": "elementwise_sub",
    "multiply": "elementwise_mul",
    "divide": "elementwise_div",
    "maximum": "elementwise_max",
    "minimum": "elementwise_min",
    "floor_divide": "elementwise_floordiv",
    "remainder": "elementwise_mod",
    "elementwise_pow": "elementwise_pow",
    "matmul": "matmul_v2",
    "mean": "reduce_mean",
    "sum": "reduce_sum",
    "max": "reduce_max",
    "min": "reduce_min",
    "flatten": "flatten_contiguous_range",
    "batch_norm_": "batch_norm",
}
_PLUMBING = ("data", "fetch", "feed")


def unknown_operators(program: str) -> list[str]:
    """Operators of a program that paddle2onnx does not list: where it fails it does not say which."""
    from paddle2onnx import paddle2onnx_cpp2py_export as converter

    known = {*converter.get_all_supported_operators_pir(), *converter.get_all_supported_operators()}
    with open(program, encoding="utf-8") as file:
        used = set(_operators(json.load(file)))
    return sorted(n for n in used if n not in known and n not in _OLD_NAMES and n not in _PLUMBING)


def _operators(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        name = node.get("#")
        if isinstance(name, str) and name.startswith("1.") and "I" in node:
            yield name[2:]
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _operators(value)


def to_onnx(program: str, weights: str, target: str, opset: int) -> None:
    """Write the network of a Paddle program as ONNX."""
    import onnx
    import paddle2onnx

    unknown = unknown_operators(program)
    if unknown:
        print(f"[ERROR][Paddle2ONNX] operators that it may not know: {', '.join(unknown)}", flush=True)
    # The engines optimise themselves. The converter's own optimisation takes minutes where there are many blocks of
    # attention, and the tool that it would call next may install packages.
    paddle2onnx.export(
        program, weights, target, opset_version=opset, optimize_tool="none", enable_optimize=False
    )
    onnx.checker.check_model(target)


def to_openvino(source: str, target: str) -> None:
    """Write the network of an ONNX file in OpenVINO's own form, weights in float32."""
    import openvino

    # convert_model would take a comma in the path for two files.
    openvino.save_model(openvino.Core().read_model(source), target, compress_to_fp16=False)


def main(kind: str, *arguments: str) -> None:
    if kind == "onnx":
        program, weights, target, opset = arguments
        to_onnx(program, weights, target, int(opset))
    else:
        to_openvino(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
