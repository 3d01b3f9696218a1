"""Run as a script, in a process of its own: convert an exported network. Converters end the process on what they cannot do.

python _conversion.py onnx PROGRAM WEIGHTS TARGET OPSET
python _conversion.py openvino ONNX TARGET
python _conversion.py int8 ONNX TARGET IMAGES [everything]
"""

from __future__ import annotations

import collections
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

# Operators that paddle2onnx knows, but lists under the names they had in Paddle 2, such as elementwise_add.
_RENAMED = frozenset(
    [
        "add",
        "subtract",
        "multiply",
        "divide",
        "maximum",
        "minimum",
        "floor_divide",
        "remainder",
        "elementwise_pow",
        "matmul",
        "mean",
        "sum",
        "max",
        "min",
        "flatten",
        "batch_norm_",
    ]
)
# What returns weights, what takes statistics of a map, and what may stand between weights and the product with a map.
_WEIGHTS = frozenset(["Sigmoid", "Softmax", "HardSigmoid", "Clip", "Tanh"])
_ACTIVATIONS = ("Clip", "Tanh")  # of these, that are activations of backbones, too
_STATISTICS = frozenset(
    ["GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "ReduceMean", "ReduceMax", "ReduceSum"]
)
_REARRANGING = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Reshape",
        "Transpose",
        "Expand",
        "Tile",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Slice",
        "Split",
        "Gather",
        "Concat",
        "Identity",
        "Cast",
    ]
)
_PLUMBING = ("data", "fetch", "feed")


def unknown_operators(program: str) -> list[str]:
    """Operators of a program that paddle2onnx does not list: where it fails it does not say which."""
    from paddle2onnx import paddle2onnx_cpp2py_export as converter

    known = {*converter.get_all_supported_operators_pir(), *converter.get_all_supported_operators()}
    with open(program, encoding="utf-8") as file:
        used = set(_operators(json.load(file)))
    return sorted(n for n in used if n not in known and n not in _RENAMED and n not in _PLUMBING)


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


def to_int8(source: str, target: str, images: str, what: str = "") -> None:
    """Quantise the convolutions and matrix products of an ONNX file, but for those of gates unless ``what`` is 'everything'.

    Activations are calibrated on the array ``images`` (.npy) one image at a time; weights are quantised channel by channel.
    A gate's layers work on pooled vectors and cost nothing, and what they lose is multiplied into the whole map: they stay
    in float.
    """
    import numpy as np
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target + ".prepared"
    quant_pre_process(
        source, prepared, skip_symbolic_shape=True
    )  # which folds normalisation into convolutions
    array = np.load(images)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self.batches = iter([{name: array[i : i + 1]} for i in range(len(array))])

        def get_next(self) -> Any:
            return next(self.batches, None)

    import onnx

    graph = onnx.load(prepared).graph
    quantization.quantize_static(
        prepared,
        target,
        Reader(graph.input[0].name),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=[] if what == "everything" else gate_nodes(graph),
    )
    os.unlink(prepared)


def gate_nodes(graph: Any) -> list[str]:
    """Names of the convolutions and products of gates: what leads from a map to weights that are multiplied with it.

    Weights are what a sigmoid or a softmax returns, or a clipping or a hyperbolic tangent of statistics, since networks have
    these between convolutions as well; what leads to the map itself is the network's own.
    """
    makers = {name: node for node in graph.node for name in node.output}
    readers = collections.defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    spreading = {tensor.name for tensor in graph.initializer if _is_even(tensor)}
    found: dict[str, Any] = {}
    for node in graph.node:
        if node.op_type in _WEIGHTS:
            maps, path = _multiplied(node, makers, readers, spreading)
            # Where weights are used twice, a map may be made of their own product.
            first = [name for name in maps if node.output[0] not in _leading_to([name], makers)]
            own = _leading_to(first, makers)
            above = {k: n for k, n in _leading_to(node.input, makers).items() if k not in own}
            of_statistics = any(n.op_type in _STATISTICS for n in above.values())
            if first and (node.op_type not in _ACTIVATIONS or of_statistics):
                found.update(above, **path)
    return sorted(n.name for n in found.values() if n.op_type in ("Conv", "Gemm", "MatMul"))


def _is_even(tensor: Any) -> bool:
    """Whether all numbers of weights of a convolution are one, and not 0: it spreads a gate over channels."""
    import numpy as np
    from onnx import numpy_helper

    if len(tensor.dims) != 4:
        return False
    array = numpy_helper.to_array(tensor)
    return bool(np.ptp(array) == 0 and array.flat[0] != 0)


def _leading_to(names: Iterable[str], makers: dict[str, Any]) -> dict[str, Any]:
    """All nodes from which tensors are made, by their first outputs: names need not be unique."""
    found: dict[str, Any] = {}
    pending = list(names)
    while pending:
        maker = makers.get(pending.pop())
        if maker is not None and maker.output[0] not in found:
            found[maker.output[0]] = maker
            pending += maker.input
    return found


def _multiplied(
    node: Any, makers: dict[str, Any], readers: dict[str, list[Any]], spreading: set[str]
) -> tuple[list[str], dict[str, Any]]:
    """The maps that are multiplied with what a node returns, and the nodes on the way there."""
    maps: list[str] = []
    path: dict[str, Any] = {}
    pending = list(node.output)
    while pending:
        name = pending.pop()
        for reader in readers[name]:
            others = [other for other in reader.input if other != name and other in makers]
            if reader.op_type in ("Mul", "MatMul") and others:
                maps += others
            elif reader.output[0] not in path and (
                reader.op_type in _REARRANGING or (reader.op_type == "Conv" and reader.input[1] in spreading)
            ):
                path[reader.output[0]] = reader
                pending += reader.output
    return maps, path


def main(kind: str, *arguments: str) -> None:
    if kind == "onnx":
        program, weights, target, opset = arguments
        to_onnx(program, weights, target, int(opset))
    elif kind == "openvino":
        to_openvino(*arguments)
    else:
        to_int8(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
