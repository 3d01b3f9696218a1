"""Export a network for Paddle Inference and prove that it computes the same."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec

from .. import files
from ..insertion import check_attention
from .predictor import InferencePredictor

_CERTAIN = 1e-3  # a probability
ENDINGS = (".json", ".pdmodel", ".pdiparams", ".pdiparams.info")


class ExportError(ValueError):
    """The exported network does not compute what the live one does."""


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
) -> dict[tuple[int, bool], float]:
    """Write ``<prefix>.json`` (Paddle 3) or ``.pdmodel`` (Paddle 2) and ``.pdiparams``.

    The files are made in a temporary directory, loaded back with Paddle
    Inference, with oneDNN and without, and compared with ``network`` on random
    images of every batch size. Only if all agree do they replace an earlier export
    in ``directory``, in one instant, with a manifest of their checksums, which
    :class:`InferencePredictor` compares.

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
        onednn (sequence of bool): with and without the CPU acceleration; leave out True for a
            network that it cannot run.
        report (callable): gets one line for every comparison.

    Returns:
        dict: ``{(batch size, oneDNN): relative error}``.

    Raises:
        ExportError: if attention that was inserted no longer runs, an error is above ``tolerance`` or not a number, or
            Paddle Inference cannot run the result; nothing is written then.
        FolderInUseError: if another process is exporting to ``directory``.
        OSError: naming what cannot be written; an earlier export is then unchanged.
    """
    _check_attention(network, image_shape)
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be 'softmax', 'sigmoid' or None, but got {activation!r}")
    live = _finish(copy.deepcopy(network), activation)
    exported = copy.deepcopy(network)
    for layer in exported.sublayers(include_self=True):  # re-parameterised networks fold first
        if hasattr(layer, "re_parameterize") and not getattr(layer, "is_repped", False):
            layer.re_parameterize()
    exported = _finish(exported, activation)
    with files.FolderLock(directory, "an export", f".{prefix}.lock"):
        # The name is always the same: what a dead export has left is removed by the next.
        workdir = os.path.join(directory, f".{prefix}.export")
        shutil.rmtree(workdir, ignore_errors=True)
        try:
            with files.explain(os.path.join(directory, prefix), "an earlier export there is unchanged"):
                os.makedirs(workdir)
                spec = InputSpec([None, *image_shape], "float32", "x")
                static = paddle.jit.to_static(exported, input_spec=[spec], full_graph=True)
                paddle.jit.save(static, os.path.join(workdir, prefix))
            errors = _check(
                live,
                workdir,
                directory,
                prefix,
                image_shape,
                activation,
                tolerance,
                batch_sizes,
                onednn,
                report,
            )
            _publish(
                workdir, directory, prefix, {"relative_error": max(errors.values()), "activation": activation}
            )
        finally:
            shutil.rmtree(workdir, ignore_errors=True)
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


def _check(
    live: nn.Layer,
    workdir: str,
    directory: str,
    prefix: str,
    image_shape: Sequence[int],
    activation: str | None,
    tolerance: float,
    batch_sizes: Sequence[int],
    onednn: Sequence[bool],
    report: Callable[[str], None],
) -> dict[tuple[int, bool], float]:
    """The relative errors of the exported network in ``workdir``; raises ExportError."""
    try:
        errors = _compare(live, workdir, prefix, image_shape, activation, batch_sizes, onednn, report)
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"Paddle Inference cannot run the exported network ({str(error).strip().splitlines()[-1]}); "
            f"nothing was written to {directory}"
        ) from error
    worst = max(errors.values(), key=lambda e: np.inf if np.isnan(e) else e)
    if not worst <= tolerance:
        raise ExportError(
            f"the exported network differs from the live one by {worst:.1e} relative, more than "
            f"{tolerance:.0e}; nothing was written to {directory}"
        )
    return errors


def _publish(workdir: str, directory: str, prefix: str, facts: dict[str, Any]) -> None:
    """Make the files in ``workdir`` the exported model of ``directory``, in one instant."""
    target = os.path.join(directory, prefix)
    files.recover(target, owner=True)
    # The program comes last: while the files change, no program is found, rather than one of other weights.
    present = [e for e in reversed(ENDINGS) if os.path.exists(os.path.join(workdir, prefix + e))]
    staged = [target + ending + files.STAGED for ending in present]
    with files.clean_up(staged):
        for ending, path in zip(present, staged, strict=True):
            os.replace(os.path.join(workdir, prefix + ending), path)
    files.commit(target, present, {"paddle": paddle.__version__, **facts})
    for ending in set(ENDINGS) - set(present):  # of an export by another Paddle
        if os.path.exists(target + ending):
            os.unlink(target + ending)


def _finish(network: nn.Layer, activation: str | None) -> nn.Layer:
    network = _Exported(network, activation)
    network.eval()
    return network


def _compare(
    network: nn.Layer,
    directory: str,
    prefix: str,
    image_shape: Sequence[int],
    activation: str | None,
    batch_sizes: Sequence[int],
    accelerations: Sequence[bool],
    report: Callable[[str], None],
) -> dict[tuple[int, bool], float]:
    random = np.random.RandomState(0)
    shape = [64 if size is None else size for size in image_shape]
    errors = {}
    for onednn in accelerations:
        predictor = InferencePredictor(directory, prefix, onednn=onednn)
        for n in batch_sizes:
            images = random.standard_normal([n, *shape]).astype("float32")
            with paddle.no_grad():
                expected = network(paddle.to_tensor(images)).numpy()
            error = relative_error(predictor(images), expected, activation)
            errors[n, onednn] = error
            report(
                f"export check: batch {n}, oneDNN {'on ' if onednn else 'off'}: relative error {error:.1e}"
            )
    return errors


def relative_error(got: np.ndarray, expected: np.ndarray, activation: str | None = None) -> float:
    """``max|a - b| / max|b|`` of the numbers that go into ``activation``: a softmax is undone up to a constant."""
    got, expected = got.astype("float64"), expected.astype("float64")
    floor = 1e-30
    if activation == "sigmoid":  # beyond, float32 keeps too few digits of what is near to 1
        clipped = [np.clip(p, _CERTAIN, 1 - _CERTAIN) for p in (got, expected)]
        got, expected = (np.log(p / (1 - p)) for p in clipped)
        floor = 0.05
    elif activation == "softmax":  # a softmax of similar logits would hide their errors
        # Paddle's softmax ends at exp(-64), oneDNN's does not: look no further than 1e-20.
        got, expected = (np.log(np.maximum(p, 1e-20)) for p in (got, expected))
        got = got - got.mean(axis=-1, keepdims=True)
        expected = expected - expected.mean(axis=-1, keepdims=True)
        floor = 0.05  # of logits closer than this, float32 probabilities keep too few digits
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), floor))
