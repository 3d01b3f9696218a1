"""Make the formats of an export in its working directory, and compare each with the live network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from paddle import nn

from .comparing import images_to_compare, live_outputs, relative_error
from .formats import FORMATS, ExportError, run_engine, run_engine_on

_ATTEMPTS = 3  # paddle2onnx reads some numbers wrong in some runs, and right in the next
_BATCH = 16


@dataclass(frozen=True)
class Task:
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
    calibration: np.ndarray | None
    min_agreement: float
    agreement: dict[str, float] = field(default_factory=dict)

    @property
    def workdir(self) -> str:
        # The name is always the same: what a dead export has left is removed by the next.
        return os.path.join(self.directory, f".{self.prefix}.export")

    @property
    def work(self) -> str:
        return os.path.join(self.workdir, self.prefix)


def make_and_check(task: Task, live: nn.Layer, made: Sequence[str]) -> dict[tuple[int, Any], float]:
    """Make all formats in the working directory and compare those that are asked for; raises ExportError."""
    batches = [
        (n, images, live_outputs(live, images))
        for n, images in images_to_compare(task.image_shape, task.batch_sizes, task.images)
    ]
    errors: dict[tuple[int, Any], float] = {}
    for name in made:
        try:
            if FORMATS[name].exact:
                errors.update(_convert(task, name, batches))
            else:
                _quantise(task, name, live)
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            what = (
                "Paddle Inference cannot run the exported network" if name == "paddle" else f"format {name}"
            )
            raise ExportError(f"{what} ({reason}); nothing was written to {task.directory}") from error
    if not errors:
        return errors
    worst = max(errors, key=lambda key: np.inf if np.isnan(errors[key]) else errors[key])
    if not errors[worst] <= task.tolerance:
        which = "" if isinstance(worst[1], bool) else f" as {worst[1]}"
        raise ExportError(
            f"the exported network{which} differs from the live one by {errors[worst]:.1e} relative, more than "
            f"{task.tolerance:.0e}; nothing was written to {task.directory}"
        )
    return errors


_Batches = Sequence[tuple[int, np.ndarray, np.ndarray]]


def _convert(task: Task, name: str, batches: _Batches) -> dict[tuple[int, Any], float]:
    """Make one format and compare it, if it is asked for; a converter that was wrong gets another try."""
    make = FORMATS[name].make
    if make is None:
        return _compare_paddle(task, name, batches) if name in task.formats else {}
    errors: dict[tuple[int, Any], float] = {}
    for attempt in range(1, _ATTEMPTS + 1):
        make(task.work, None)
        errors = _compare(task, name, batches) if name in task.formats else {}
        if all(error <= task.tolerance for error in errors.values()):
            break
        if attempt < _ATTEMPTS:
            task.report(f"export check: {name} is wrong; converting again, {attempt + 1} of {_ATTEMPTS}")
    return errors


def _compare_paddle(task: Task, name: str, batches: _Batches) -> dict[tuple[int, Any], float]:
    errors: dict[tuple[int, Any], float] = {}
    kinds = {True: "fp32", False: "plain"}
    images = {str(i): batch for i, (_, batch, _) in enumerate(batches)}
    asked = list(dict.fromkeys(kinds[bool(onednn)] for onednn in task.onednn))
    outputs = run_engine("paddle", task.work, images, ",".join(asked))
    for onednn in task.onednn:
        lead = f"{kinds[bool(onednn)]}," if len(asked) > 1 else ""
        results = [(n, outputs[f"{lead}{i}"], expected) for i, (n, _, expected) in enumerate(batches)]
        _note(task, f"oneDNN {'on ' if onednn else 'off'}", onednn, results, errors)
    return errors


def _compare(task: Task, name: str, batches: _Batches) -> dict[tuple[int, Any], float]:
    kind = FORMATS[name]
    errors: dict[tuple[int, Any], float] = {}
    images = {str(i): batch for i, (_, batch, _) in enumerate(batches)}
    outputs = run_engine(kind.engine, task.work + kind.endings[-1], images)
    results = [(n, outputs[str(i)], expected) for i, (n, _, expected) in enumerate(batches)]
    _note(task, kind.engine, name, results, errors)
    return errors


def _quantise(task: Task, name: str, live: nn.Layer) -> None:
    """Quantise, calibrated on every other image; raises ExportError where the rest get too many other classes."""
    kind, images = FORMATS[name], np.asarray(task.calibration, "float32")
    assert kind.make is not None
    kind.make(task.work, images[::2])
    judged = images[1::2]
    got = run_engine_on(kind.engine, task.work + kind.endings[-1], judged, "int8")
    parts = [live_outputs(live, judged[i : i + _BATCH]) for i in range(0, len(judged), _BATCH)]
    expected = np.concatenate(parts)
    same, worst = _same_classes(got, expected, task.activation), float(np.abs(got - expected).max())
    text = f"{same} of {len(judged)} images have the live network's class, the largest difference of an output is {worst:.2g}"
    task.report(f"export check: {name}: {text}")
    if not same >= task.min_agreement * len(judged):
        raise ExportError(
            f"{text}; {task.min_agreement:.1%} is asked for: calibrate on more images, lower min_agreement, or stay with fp32"
        )
    task.agreement[name] = same / len(judged)


def _note(
    task: Task,
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


def _same_classes(got: np.ndarray, expected: np.ndarray, activation: str | None) -> int:
    """How many images have the same class; with a sigmoid, the same classes."""
    if activation == "sigmoid":
        return int(((got > 0.5) == (expected > 0.5)).all(axis=1).sum())
    return int((got.argmax(1) == expected.argmax(1)).sum())
