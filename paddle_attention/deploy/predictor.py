"""Run an exported network with Paddle Inference."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import paddle.inference

from ..files import verify


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


class InferencePredictor:
    """Paddle Inference on one exported network, with its default passes.

    Where the export has a manifest, the checksums of its files must agree.

    Args:
        directory (str): where ``inference.json`` (or ``.pdmodel``) and
            ``inference.pdiparams`` are.
        prefix (str): the files' name without ending.
        onednn (bool): oneDNN kernels on CPU.
        threads (int, optional): CPU threads. Default: ``OMP_NUM_THREADS``, else all cores.
        gpu (bool): run on the first GPU.

    Raises:
        FileNotFoundError: if the files are not there.
        DamagedFileError: if a file is not what its manifest says.
        ValueError: if Paddle Inference cannot open them.

    Attributes:
        verified (bool): whether there was a manifest.
        activation (str or None): what the network ends with, as its manifest says; ``'softmax'`` if it does not.
    """

    def __init__(
        self,
        directory: str,
        prefix: str = "inference",
        onednn: bool = True,
        threads: int | None = None,
        gpu: bool = False,
    ) -> None:
        manifest = verify(os.path.join(directory, prefix), strict=True)
        self.verified = manifest is not None
        self.activation: str | None = (manifest or {}).get("activation", "softmax")
        endings = (".json", ".pdmodel") if manifest is None else manifest["files"]
        config = paddle.inference.Config(*model_files(directory, prefix, endings))
        if gpu:
            config.enable_use_gpu(256, 0)
        else:
            config.disable_gpu()
            if onednn:
                config.enable_mkldnn()
            elif hasattr(config, "disable_mkldnn"):
                config.disable_mkldnn()
            threads = threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
            config.set_cpu_math_library_num_threads(threads)
        config.disable_glog_info()
        try:
            self.predictor = paddle.inference.create_predictor(config)
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise ValueError(
                f"{directory}: Paddle Inference cannot open the exported model ({reason})"
            ) from error

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """``float32 [n, 3, H, W]`` to the network's output as an array."""
        handle = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        handle.copy_from_cpu(np.ascontiguousarray(images, dtype="float32"))
        self.predictor.run()
        return self.predictor.get_output_handle(self.predictor.get_output_names()[0]).copy_to_cpu()
