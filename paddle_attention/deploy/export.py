"""Export a network for the engines that run it, and prove that they compute the same."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec

from .. import files
from ..insertion import check_attention
from .comparing import images_to_compare, live_outputs, relative_error
from .formats import FORMATS, ExportError, check_formats, run_engine
from .inference_config import write_inference_config
from .predictor import InferencePredictor

_CONFIG = ".yml"
_ATTEMPTS = 3  # paddle2onnx reads some numbers wrong in some runs, and right in the next
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


@dataclass(frozen=True)
class _Export:
    """What an export is asked to do; see :func:`export_inference_model`."""

    directory: str
    prefix: str
    image_shape: Sequence[int]
    activation: str | None
    tolerance: float
    batch_sizes: Sequence[int]
    onednn: Sequence[bool]
    report: Callable[[str], None]
    formats: Sequence[str]
    images: np.ndarray | None
    config: Mapping[str, Any] | None

    @property
    def workdir(self) -> str:
        # The name is always the same: what a dead export has left is removed by the next.
        return os.path.join(self.directory, f".{self.prefix}.export")

    @property
    def work(self) -> str:
        return os.path.join(self.workdir, self.prefix)


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
            ``'onnx'`` and ``'openvino'`` (``.xml`` and ``.bin``); the last two need Paddle 3.
        images (numpy.ndarray, optional): prepared photographs ``[n, C, H, W]`` to compare on as well.
        config (dict, optional): the parsed YAML; what it says of preprocessing and classes is written to
            ``<prefix>.yml`` as PaddleClas and PaddleX read it.

    Returns:
        dict: ``{(batch size, how): relative error}``, where ``how`` is, for Paddle Inference, whether with
        oneDNN, else the format.

    Raises:
        ExportError: if attention that was inserted no longer runs, a converter cannot convert the network, an error
            is above ``tolerance`` or not a number, or an engine cannot run the result; nothing is written then.
        FolderInUseError: if another process is exporting to ``directory``.
        OSError: naming what cannot be written; an earlier export is then unchanged.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be 'softmax', 'sigmoid' or None, but got {activation!r}")
    made = check_formats(formats)
    task = _Export(
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
    )
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
                if config is not None:
                    write_inference_config(config, task.work + _CONFIG)
            errors = _make_and_check(task, live, made)
            _publish(task, errors)
        finally:
            shutil.rmtree(task.workdir, ignore_errors=True)
    return errors


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


def _make_and_check(task: _Export, live: nn.Layer, made: Sequence[str]) -> dict[tuple[int, Any], float]:
    """Make all formats in the working directory and compare those that are asked for; raises ExportError."""
    batches = [
        (n, images, live_outputs(live, images))
        for n, images in images_to_compare(task.image_shape, task.batch_sizes, task.images)
    ]
    errors: dict[tuple[int, Any], float] = {}
    for name in made:
        try:
            errors.update(_convert(task, name, batches))
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            what = (
                "Paddle Inference cannot run the exported network" if name == "paddle" else f"format {name}"
            )
            raise ExportError(f"{what} ({reason}); nothing was written to {task.directory}") from error
    worst = max(errors, key=lambda key: np.inf if np.isnan(errors[key]) else errors[key])
    if not errors[worst] <= task.tolerance:
        which = "" if isinstance(worst[1], bool) else f" as {worst[1]}"
        raise ExportError(
            f"the exported network{which} differs from the live one by {errors[worst]:.1e} relative, more than "
            f"{task.tolerance:.0e}; nothing was written to {task.directory}"
        )
    return errors


_Batches = Sequence[tuple[int, np.ndarray, np.ndarray]]


def _convert(task: _Export, name: str, batches: _Batches) -> dict[tuple[int, Any], float]:
    """Make one format and compare it, if it is asked for; a converter that was wrong gets another try."""
    make = FORMATS[name].make
    if make is None:
        return _compare_paddle(task, name, batches) if name in task.formats else {}
    errors: dict[tuple[int, Any], float] = {}
    for attempt in range(1, _ATTEMPTS + 1):
        make(task.work)
        errors = _compare(task, name, batches) if name in task.formats else {}
        if all(error <= task.tolerance for error in errors.values()):
            break
        if attempt < _ATTEMPTS:
            task.report(f"export check: {name} is wrong; converting again, {attempt + 1} of {_ATTEMPTS}")
    return errors


def _compare_paddle(task: _Export, name: str, batches: _Batches) -> dict[tuple[int, Any], float]:
    errors: dict[tuple[int, Any], float] = {}
    for onednn in task.onednn:
        predictor = InferencePredictor(task.workdir, task.prefix, onednn=onednn)
        results = [(n, predictor(images), expected) for n, images, expected in batches]
        _note(task, f"oneDNN {'on ' if onednn else 'off'}", onednn, results, errors)
    return errors


def _compare(task: _Export, name: str, batches: _Batches) -> dict[tuple[int, Any], float]:
    kind = FORMATS[name]
    errors: dict[tuple[int, Any], float] = {}
    images = {str(i): batch for i, (_, batch, _) in enumerate(batches)}
    outputs = run_engine(kind.engine, task.work + kind.endings[-1], images)
    results = [(n, outputs[str(i)], expected) for i, (n, _, expected) in enumerate(batches)]
    _note(task, kind.engine, name, results, errors)
    return errors


def _note(
    task: _Export,
    how: str,
    key: Any,
    results: Sequence[tuple[int, np.ndarray, np.ndarray]],
    errors: dict[tuple[int, Any], float],
) -> None:
    """Report the relative error of every batch size, the largest of its batches, and put it into ``errors``."""
    found: dict[int, list[float]] = {}
    for n, got, expected in results:
        found.setdefault(n, []).append(relative_error(got, expected, task.activation))
    for n, values in found.items():
        error = float(np.max(values))  # not a number, if one of them is none
        errors[n, key] = error
        task.report(f"export check: batch {n}, {how}: relative error {error:.1e}")


def _publish(task: _Export, errors: dict[tuple[int, Any], float]) -> None:
    """Make the files in the working directory the exported model of the directory, in one instant."""
    target = os.path.join(task.directory, task.prefix)
    files.recover(target, owner=True)
    wanted = [ending for name in task.formats for ending in FORMATS[name].endings]
    # The programs come last: while the files change, no program is found, rather than one of other weights.
    present = [e for e in (_CONFIG, *wanted) if os.path.exists(task.work + e)]
    staged = [target + ending + files.STAGED for ending in present]
    facts = {
        "paddle": paddle.__version__,
        "relative_error": max(errors.values()),
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


def _facts(task: _Export, name: str, errors: Mapping[tuple[int, Any], float]) -> dict[str, Any]:
    """What the manifest says of a format: its error, and the versions that made it and ran it."""
    own = [e for (_, how), e in errors.items() if how == name or (name == "paddle" and isinstance(how, bool))]
    return {"relative_error": max(own), "versions": FORMATS[name].versions()}
