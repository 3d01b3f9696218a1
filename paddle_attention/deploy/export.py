"""Export a network for the engines that run it, and prove that they compute the same."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec

from .. import files
from ..insertion import check_attention
from .formats import FORMATS, ExportError, check_formats
from .inference_config import write_inference_config
from .rewriting import rewrite_saved
from .verification import Task, make_and_check

_CONFIG = ".yml"
_CALIBRATION = 32  # images
ENDINGS = tuple(ending for kind in FORMATS.values() for ending in kind.endings)
_ACTIVATIONS: dict[str | None, Callable[[], nn.Layer]] = {
    "softmax": lambda: nn.Softmax(axis=-1),
    "sigmoid": nn.Sigmoid,
    None: nn.Identity,
}


class _Exported(nn.Layer):
    """What PaddleClas exports: the first output only (others serve training), as probabilities if asked."""

    def __init__(self, network: nn.Layer, activation: str | None) -> None:
        super().__init__()
        self.network = network
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        y = self.network(x)
        if isinstance(y, (list, tuple)):
            y = y[0]
        return self.activation(y)


def export_inference_model(
    network: nn.Layer,
    directory: str,
    image_shape: Sequence[int],
    activation: str | None = "softmax",
    prefix: str = "inference",
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 3),
    onednn: Sequence[bool] = (True, False),
    report: Callable[[str], None] = print,
    formats: Sequence[str] = ("paddle",),
    images: np.ndarray | None = None,
    config: Mapping[str, Any] | None = None,
    calibration: np.ndarray | None = None,
    min_agreement: float = 0.98,
    rewrite: bool = True,
) -> dict[tuple[int, Any], float]:
    """Write a network for Paddle Inference, ONNX Runtime or OpenVINO.

    The files are made in a temporary directory, loaded back with the engine they are for (Paddle
    Inference: with oneDNN and without), and compared with ``network`` on random images of every
    batch size, of two sizes where the size is free. Only if all agree do they replace an earlier export
    in ``directory``, in one instant, with a manifest of their checksums, which the predictors compare.

    Args:
        network (paddle.nn.Layer): returns logits ``[N, classes]``; it is not changed.
        directory (str): where to write.
        image_shape (list of int): ``[C, H, W]``; None for a dynamic H or W.
        activation (str or None): ``'softmax'``, which PaddleClas appends, ``'sigmoid'`` where an image may
            have several classes, or None for the network's own output.
        prefix (str): name of the files without ending.
        tolerance (float): the largest relative error, ``max|a - b| / max|b|`` of
            the logits (of probabilities: of what gives them, see :func:`relative_error`).
        batch_sizes (sequence of int): sizes of the random batches.
        onednn (sequence of bool): with and without the CPU acceleration of Paddle Inference; leave out
            True for a network that it cannot run.
        report (callable): gets one line for every comparison.
        formats (sequence of str): ``'paddle'`` (``.json`` or, with Paddle 2, ``.pdmodel``, and ``.pdiparams``),
            ``'onnx'``, ``'openvino'`` (``.xml`` and ``.bin``) and ``'int8'`` (``.int8.onnx``, quantised, for ONNX
            Runtime and OpenVINO); all but the first need Paddle 3.
        images (numpy.ndarray, optional): prepared photographs ``[n, C, H, W]`` to compare on as well.
        calibration (numpy.ndarray, optional): for ``'int8'``, prepared photographs ``[n, C, H, W]`` of the kind that the
            network is for, at least 32: it is calibrated on every other one and judged by the rest.
        min_agreement (float): the share of these whose class must be the live network's.
        rewrite (bool): let attention behind a 1x1 convolution read the smaller map before it, see
            :mod:`paddle_attention.deploy.rewriting`; needs Paddle 3. The graph as it is, where that one does not agree.
        config (dict, optional): the parsed YAML; what it says of preprocessing and classes is written to
            ``<prefix>.yml`` as PaddleClas and PaddleX read it.

    Returns:
        dict: ``{(batch size, how): relative error}``, where ``how`` is, for Paddle Inference, whether with
        oneDNN, else the format; for ``'int8'`` the share of images that have another class.

    Raises:
        ExportError: if attention that was inserted no longer runs, a converter cannot convert the network, an error
            is above ``tolerance`` or not a number, or an engine cannot run the result; nothing is written then.
        FolderInUseError: if another process is exporting to ``directory``.
        OSError: naming what cannot be written; an earlier export is then unchanged.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be 'softmax', 'sigmoid' or None, but got {activation!r}")
    made = check_formats(formats)
    task = Task(
        directory,
        prefix,
        image_shape,
        activation,
        tolerance,
        batch_sizes,
        onednn,
        report,
        formats,
        images,
        config,
        calibration,
        min_agreement,
    )
    _check_calibration(task)
    _check_attention(network, image_shape)
    live = _finish(copy.deepcopy(network), activation)
    exported = copy.deepcopy(network)
    for layer in exported.sublayers(include_self=True):  # re-parameterised networks fold first
        if hasattr(layer, "re_parameterize") and not getattr(layer, "is_repped", False):
            layer.re_parameterize()
    exported = _finish(exported, activation)
    with files.FolderLock(directory, "an export", f".{prefix}.lock"):
        shutil.rmtree(task.workdir, ignore_errors=True)
        try:
            with files.explain(os.path.join(directory, prefix), "an earlier export there is unchanged"):
                os.makedirs(task.workdir)
                spec = InputSpec([None, *image_shape], "float32", "x")
                static = paddle.jit.to_static(exported, input_spec=[spec], full_graph=True)
                paddle.jit.save(static, task.work)
                changed = _rewrite(task) if rewrite else 0
                if config is not None:
                    write_inference_config(config, task.work + _CONFIG)
            try:
                errors = make_and_check(task, live, made)
            except ExportError as error:
                if not changed:
                    raise
                task.report(f"export check: the graph as it is, since the rewritten one fails: {error}")
                paddle.jit.save(static, task.work)
                errors = make_and_check(task, live, made)
            _publish(task, errors)
        finally:
            shutil.rmtree(task.workdir, ignore_errors=True)
    judged = 0 if calibration is None else len(calibration) // 2
    return {**errors, **{(judged, name): 1 - share for name, share in task.agreement.items()}}


def _rewrite(task: Task) -> int:
    """Rewrite the graph in the working directory, if that can be done; how many places were changed."""
    try:
        return rewrite_saved(task.work)
    except Exception as error:  # of an unknown kind of graph: it is left as it is
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        task.report(f"export check: the graph as it is, since it cannot be rewritten: {reason}")
        return 0


def _check_calibration(task: Task) -> None:
    count = 0 if task.calibration is None else len(task.calibration)
    if "int8" in task.formats and count < _CALIBRATION:
        raise ExportError(
            f"format 'int8' needs at least {_CALIBRATION} photographs to calibrate on and to be judged by, but got "
            f"{count}; give calibration, or DataLoader.Eval in the YAML"
        )


def _check_attention(network: nn.Layer, image_shape: Sequence[int]) -> None:
    """Raise ExportError where attention that was inserted no longer runs."""
    parameters = [p for p in network.parameters() if p.is_floating_point()]
    image = paddle.zeros(
        [1, *(size or 224 for size in image_shape)], parameters[0].dtype if parameters else None
    )
    try:
        check_attention(network, image)
    except ValueError as error:
        raise ExportError(f"{error}; nothing was written") from error


def _finish(network: nn.Layer, activation: str | None) -> nn.Layer:
    network = _Exported(network, activation)
    network.eval()
    return network


def _publish(task: Task, errors: dict[tuple[int, Any], float]) -> None:
    """Make the files in the working directory the exported model of the directory, in one instant."""
    target = os.path.join(task.directory, task.prefix)
    files.recover(target, owner=True)
    wanted = [ending for name in task.formats for ending in FORMATS[name].endings]
    # The programs come last: while the files change, no program is found, rather than one of other weights.
    present = [e for e in (_CONFIG, *wanted) if os.path.exists(task.work + e)]
    staged = [target + ending + files.STAGED for ending in present]
    facts = {
        "paddle": paddle.__version__,
        "relative_error": max(errors.values(), default=None),
        "activation": task.activation,
        "image_shape": list(task.image_shape),
        "formats": {name: _facts(task, name, errors) for name in task.formats},
    }
    with files.clean_up(staged):
        for ending, path in zip(present, staged, strict=True):
            os.replace(task.work + ending, path)
    files.commit(target, present, facts)
    for ending in {*ENDINGS, _CONFIG} - set(present):  # of an export to other formats, or by another Paddle
        if os.path.exists(target + ending):
            os.unlink(target + ending)


def _facts(task: Task, name: str, errors: Mapping[tuple[int, Any], float]) -> dict[str, Any]:
    """What the manifest says of a format: its error, and the versions that made it and ran it."""
    if name in task.agreement:
        return {"agreement": task.agreement[name], "versions": FORMATS[name].versions()}
    own = [e for (_, how), e in errors.items() if how == name or (name == "paddle" and isinstance(how, bool))]
    return {"relative_error": max(own), "versions": FORMATS[name].versions()}
