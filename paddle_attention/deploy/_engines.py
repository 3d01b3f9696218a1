"""Engines that run an exported network. Only Paddle's needs more of this package: a process can hold one engine alone.

As a script: python _engines.py ENGINE PATH PRECISION THREADS INPUTS OUTPUTS, where INPUTS is an .npz file of
images and OUTPUTS the one to write the results to, as 'precision,name'. Several precisions are joined by commas.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]


def open_onnxruntime(path: str, precision: str, threads: int) -> Run:
    """ONNX Runtime on ``threads`` CPU threads; ``path`` ends in .onnx."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return lambda images: np.asarray(session.run(None, {entry.name: images})[0])


def open_openvino(path: str, precision: str, threads: int) -> Run:
    """OpenVINO on ``threads`` CPU threads; ``path`` ends in .xml or .onnx."""
    import openvino

    kinds = {"fp32": openvino.Type.f32, "int8": openvino.Type.f32, "bf16": openvino.Type.bf16}
    core = openvino.Core()
    # Without the hint it computes in bfloat16 where the processor can.
    properties: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": kinds[precision],
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(path, "CPU", properties)
    request = compiled.create_infer_request()
    return lambda images: np.array(request.infer([images])[compiled.output(0)])


def open_paddle(path: str, precision: str, threads: int) -> Run:
    """Paddle Inference on ``threads`` CPU threads; ``path`` has no ending. ``'plain'`` is without oneDNN."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    import paddle

    from paddle_attention.deploy.predictor import InferencePredictor

    paddle.disable_signal_handler()  # after a damaged heap it would wait for ever

    directory, prefix = os.path.split(path)
    onednn = precision != "plain"
    return InferencePredictor(
        directory, prefix, onednn, threads, precision=precision if precision == "bf16" else "fp32"
    )


ENGINES: dict[str, Callable[[str, str, int], Run]] = {
    "paddle": open_paddle,
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}


def main(engine: str, path: str, precision: str, threads: str, inputs: str, outputs: str) -> None:
    results = {}
    with np.load(inputs) as arrays:
        for kind in precision.split(","):
            run = ENGINES[engine](path, kind, int(threads))
            results.update({f"{kind},{name}": run(arrays[name]) for name in arrays.files})
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
