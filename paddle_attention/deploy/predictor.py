"""Run an exported network with the engine of one's choice."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle.inference

from ..files import verify
from ._engines import ENGINES

PRECISIONS = ("fp32", "bf16", "int8")
_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # of /proc/cpuinfo: with neither it is emulated, slowly
# The files that an engine opens, the better first.
_FILES = {"onnxruntime": (".onnx",), "openvino": (".xml", ".onnx")}
_INT8 = (".int8.onnx",)  # of either


def model_files(
    directory: str, prefix: str = "inference", endings: Sequence[str] = (".json", ".pdmodel")
) -> tuple[str, str]:
    """``(program, weights)`` paths of an exported network, whose program has one of the ``endings``.

    Raises:
        FileNotFoundError: if ``directory`` does not hold both files.
    """
    weights = os.path.join(directory, prefix + ".pdiparams")
    for ending in [e for e in (".json", ".pdmodel") if e in endings]:
        program = os.path.join(directory, prefix + ending)
        if os.path.isfile(program) and os.path.isfile(weights):
            return program, weights
    raise FileNotFoundError(
        f"{directory!r} holds no exported model: {prefix}.json or {prefix}.pdmodel, and {prefix}.pdiparams"
    )


class _Predictor:
    """What all predictors have: a manifest whose checksums the files must agree with, where there is one.

    Attributes:
        verified (bool): whether there was a manifest.
        activation (str or None): what the network ends with, as its manifest says; ``'softmax'`` if it does not.
    """

    def __init__(self, directory: str, prefix: str, precision: str) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, but got {precision!r}")
        if precision == "bf16" and not has_bfloat16():
            raise ValueError(
                f"precision 'bf16': this processor has no instructions for it ({' or '.join(_BFLOAT16)}); use fp32"
            )
        self.manifest: dict[str, Any] | None = verify(os.path.join(directory, prefix), strict=True)
        self.verified = self.manifest is not None
        self.activation: str | None = (self.manifest or {}).get("activation", "softmax")
        self.image_shape: list[int | None] = (self.manifest or {}).get("image_shape") or [None, None, None]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """``float32 [n, 3, H, W]`` to the network's output as an array.

        Raises:
            ValueError: for images of a size that was not exported, or if the engine fails.
        """
        images = np.ascontiguousarray(images, dtype="float32")
        fits = images.ndim == 4 and all(
            fixed in (None, n) for fixed, n in zip(self.image_shape, images.shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"images of shape {list(images.shape[1:])}, but the network was exported for {self.image_shape} "
                "(Global.image_shape): change Infer.transforms, or export with null for a free height or width"
            )
        try:
            outputs = self.run(images)
        except Exception as error:  # each engine has its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise ValueError(
                f"the engine cannot run images of shape {list(images.shape)} ({reason})"
            ) from error
        if len(outputs) != len(images):
            raise ValueError(
                f"the engine gives {len(outputs)} results for {len(images)} images; use another engine"
            )
        return outputs

    def run(self, images: np.ndarray) -> np.ndarray:
        """What the engine gives."""
        raise NotImplementedError


class InferencePredictor(_Predictor):
    """Paddle Inference on one exported network, with its default passes.

    Args:
        directory (str): where ``inference.json`` (or ``.pdmodel``) and
            ``inference.pdiparams`` are.
        prefix (str): the files' name without ending.
        onednn (bool): oneDNN kernels on CPU.
        threads (int, optional): CPU threads. Default: ``OMP_NUM_THREADS``, else all cores.
        gpu (bool): run on the first GPU.
        precision (str): ``'fp32'`` or ``'bf16'``, with oneDNN on a processor that has it.

    Raises:
        FileNotFoundError: if the files are not there.
        DamagedFileError: if a file is not what its manifest says.
        ValueError: if Paddle Inference cannot open them, or the processor has not the precision.
    """

    def __init__(
        self,
        directory: str,
        prefix: str = "inference",
        onednn: bool = True,
        threads: int | None = None,
        gpu: bool = False,
        precision: str = "fp32",
    ) -> None:
        super().__init__(directory, prefix, precision)
        if precision == "int8":
            raise ValueError(
                "precision 'int8': Paddle Inference has none; use engine onnxruntime or openvino"
            )
        if precision == "bf16" and (gpu or not onednn):
            raise ValueError("precision 'bf16' of Paddle Inference needs oneDNN on the CPU")
        endings = (".json", ".pdmodel") if self.manifest is None else self.manifest["files"]
        config = paddle.inference.Config(*model_files(directory, prefix, endings))
        if gpu:
            config.enable_use_gpu(256, 0)
        else:
            config.disable_gpu()
            if onednn:
                config.enable_mkldnn()
                if precision == "bf16":
                    config.enable_mkldnn_bfloat16()
            elif hasattr(config, "disable_mkldnn"):
                config.disable_mkldnn()
            if int(paddle.__version__.split(".")[0]) < 3:  # Paddle 3 has no such pass
                config.enable_memory_optim()
            config.set_cpu_math_library_num_threads(threads or default_threads())
        config.disable_glog_info()
        try:
            self.predictor = paddle.inference.create_predictor(config)
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise ValueError(
                f"{directory}: Paddle Inference cannot open the exported model ({reason})"
            ) from error

    def run(self, images: np.ndarray) -> np.ndarray:
        handle = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        handle.copy_from_cpu(images)
        self.predictor.run()
        return np.asarray(
            self.predictor.get_output_handle(self.predictor.get_output_names()[0]).copy_to_cpu()
        )


class EnginePredictor(_Predictor):
    """ONNX Runtime or OpenVINO on one exported network, on the CPU.

    Args:
        directory (str): where ``inference.onnx``, or ``inference.xml`` and ``.bin``, are.
        engine (str): ``'onnxruntime'`` or ``'openvino'``.
        prefix (str): the files' name without ending.
        threads (int, optional): CPU threads. Default: ``OMP_NUM_THREADS``, else all cores.
        precision (str): ``'fp32'``, ``'int8'`` (of that format's file), or ``'bf16'`` with OpenVINO on a
            processor that has it.

    Raises:
        FileNotFoundError: if the files are not there.
        DamagedFileError: if a file is not what its manifest says.
        ValueError: if the engine is not installed or cannot open them, or has not the precision.
    """

    def __init__(
        self,
        directory: str,
        engine: str,
        prefix: str = "inference",
        threads: int | None = None,
        precision: str = "fp32",
    ) -> None:
        if engine not in _FILES:
            raise ValueError(f"engine must be one of {', '.join(_FILES)}, but got {engine!r}")
        if engine == "onnxruntime" and precision == "bf16":
            raise ValueError(
                f"precision {precision!r}: ONNX Runtime has none on the CPU; use OpenVINO or fp32"
            )
        super().__init__(directory, prefix, precision)
        if importlib.util.find_spec(engine) is None:
            raise ValueError(f"engine {engine!r} is not installed: pip install {engine}")
        endings = _INT8 if precision == "int8" else _FILES[engine]
        written = endings if self.manifest is None else self.manifest["files"]
        paths = [os.path.join(directory, prefix + e) for e in endings if e in written]
        path = next(filter(os.path.isfile, paths), None)
        if path is None:
            names = " or ".join(prefix + ending for ending in endings)
            kind = "int8" if precision == "int8" else "openvino" if engine == "openvino" else "onnx"
            raise FileNotFoundError(
                f"{directory!r} holds no model for {engine}: {names}; export with --format {kind}"
            )
        try:
            self._run = ENGINES[engine](path, precision, threads or default_threads())
        except Exception as error:  # each engine has its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise ValueError(f"{path}: {engine} cannot open the exported model ({reason})") from error

    def run(self, images: np.ndarray) -> np.ndarray:
        return self._run(images)


def default_threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:
        return False
    return any(flag in flags for flag in _BFLOAT16)


PREDICTORS: dict[str, Callable[..., _Predictor]] = {
    "paddle": InferencePredictor,
    "onnxruntime": lambda directory, **options: EnginePredictor(directory, "onnxruntime", **options),
    "openvino": lambda directory, **options: EnginePredictor(directory, "openvino", **options),
}


def open_predictor(directory: str, engine: str = "paddle", **options: Any) -> _Predictor:
    """The predictor of an ``engine`` (``'paddle'``, ``'onnxruntime'``, ``'openvino'``) on an exported network.

    Args:
        directory (str): where the export is.
        engine (str): see above.
        **options: see :class:`InferencePredictor` and :class:`EnginePredictor`.
    """
    if engine not in PREDICTORS:
        raise ValueError(f"engine must be one of {', '.join(PREDICTORS)}, but got {engine!r}")
    return PREDICTORS[engine](directory, **options)
