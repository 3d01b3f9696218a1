"""The forms in which a network is exported, and how each is made.

ONNX is made of Paddle's program by paddle2onnx, OpenVINO's form of the ONNX file, each in a process of its own:
these converters end the process on what they cannot convert.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import paddle

from ..interrupt import end_with_parent

OPSET = 17
_INT8 = ".int8.onnx"
_BATCH = 64
_PATIENCE = 600  # seconds for one conversion
_FOLDER = os.path.dirname(os.path.abspath(__file__))
_COMPLAINT = re.compile(r"\[ERROR\]\s*\[Paddle2ONNX\]\s*(.*)")


class ExportError(ValueError):
    """The exported network does not compute what the live one does."""


def _make_onnx(prefix: str, images: np.ndarray | None) -> None:
    program = prefix + ".json"
    convert("onnx", program, prefix + ".pdiparams", prefix + ".onnx", str(OPSET))


def _make_openvino(prefix: str, images: np.ndarray | None) -> None:
    convert("openvino", prefix + ".onnx", prefix + ".xml")


def _make_int8(prefix: str, images: np.ndarray | None) -> None:
    path = prefix + ".calibration.npy"
    np.save(path, np.asarray(images, "float32"))
    try:
        convert("int8", prefix + ".onnx", prefix + _INT8, path)
    finally:
        os.unlink(path)


@dataclass(frozen=True)
class Format:
    """A form of exported networks.

    Attributes:
        endings (tuple of str): of its files; the last is the one that engines open.
        engine (str): that runs it, and with which it is compared.
        of (str or None): the format that it is made of.
        modules (tuple of str): packages that making and comparing it needs.
        make (callable or None): writes the files, of a path without ending and images to calibrate on.
        exact (bool): whether its outputs equal the live network's but for rounding.
    """

    endings: tuple[str, ...]
    engine: str
    of: str | None = None
    modules: tuple[str, ...] = ()
    make: Callable[[str, np.ndarray | None], None] | None = None
    exact: bool = True

    def versions(self) -> dict[str, str]:
        """Of the packages that make and compare it."""
        return {module: importlib.metadata.version(module) for module in self.modules}


FORMATS = {
    "paddle": Format((".pdiparams.info", ".pdiparams", ".pdmodel", ".json"), "paddle"),
    "onnx": Format((".onnx",), "onnxruntime", "paddle", ("paddle2onnx", "onnxruntime"), _make_onnx),
    "openvino": Format((".bin", ".xml"), "openvino", "onnx", ("paddle2onnx", "openvino"), _make_openvino),
    "int8": Format(
        (_INT8,), "onnxruntime", "onnx", ("paddle2onnx", "onnxruntime", "ml_dtypes"), _make_int8, exact=False
    ),
}


def check_formats(formats: Sequence[str]) -> list[str]:
    """All formats to make, in order, those included that others are made of.

    Raises:
        ValueError: for a name that is no format, or none.
        ExportError: if a package is missing, or Paddle is too old.
    """
    if isinstance(formats, str) or not formats:
        raise ValueError(f"formats must be a list of some of {', '.join(FORMATS)}, but got {formats!r}")
    needed: list[str] = []
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"formats must be some of {', '.join(FORMATS)}, but got {name!r}")
        chain = [name]
        while (parent := FORMATS[chain[0]].of) is not None:
            chain.insert(0, parent)
        needed += [n for n in chain if n not in needed]
        for module in FORMATS[name].modules:
            if importlib.util.find_spec(module) is None:
                extra = "openvino" if name == "openvino" else "onnx"
                raise ExportError(f"format {name!r} needs {module}: pip install 'paddle_attention[{extra}]'")
    if len(needed) > 1 and int(paddle.__version__.split(".")[0]) < 3:
        raise ExportError(
            f"formats {', '.join(formats)}: paddle2onnx needs Paddle 3 or newer, but this is {paddle.__version__}; "
            "export there from the same weights"
        )
    return needed


def convert(kind: str, *arguments: str) -> None:
    """Run a conversion in a process of its own; raises ExportError with what the converter complains of."""
    _run("_conversion.py", [kind, *arguments], f"the conversion to {kind}")
    if not os.path.isfile(arguments[2 if kind == "onnx" else 1]):
        raise ExportError(f"the conversion to {kind} has written nothing")


def run_engine(
    engine: str, path: str, images: dict[str, np.ndarray], precision: str = "fp32", threads: int = 1
) -> dict[str, np.ndarray]:
    """The outputs of an exported network for several batches, by an engine in a process of its own.

    Several ``precision``, joined by commas, give outputs under ``'precision,name'``.

    Raises:
        ExportError: with what the engine complains of.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = os.path.join(folder, "inputs.npz"), os.path.join(folder, "outputs.npz")
        np.savez(inputs, **images)
        _run("_engines.py", [engine, path, precision, str(threads), inputs, outputs], engine)
        with np.load(outputs) as arrays:
            several = "," in precision
            return {name if several else name.split(",", 1)[1]: arrays[name] for name in arrays.files}


def run_engine_on(engine: str, path: str, images: np.ndarray, precision: str = "fp32") -> np.ndarray:
    """The outputs for many images, in batches; see :func:`run_engine`."""
    batches = {str(i): images[i : i + _BATCH] for i in range(0, len(images), _BATCH)}
    found = run_engine(engine, path, batches, precision)
    return np.concatenate([found[key] for key in batches])


def _run(script: str, arguments: Sequence[str], what: str) -> None:
    command = [sys.executable, os.path.join(_FOLDER, script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            env=environment,
            preexec_fn=end_with_parent,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(f"{what} takes more than {_PATIENCE} s") from None
    if done.returncode:
        raise ExportError(f"{what} failed: {_complaint(done.stdout + done.stderr, done.returncode)}")


def _complaint(text: str, status: int) -> str:
    """The converter's own words, else the signal that ended it, else the last line, else the status."""
    found = [line.strip() for line in _COMPLAINT.findall(text)]
    if not any(found) and status < 0:
        return f"the process was ended by {signal.Signals(-status).name}"
    lines = found[:3] or [line.strip() for line in text.splitlines() if line.strip()][-1:]
    return "; ".join(dict.fromkeys(filter(None, lines))) or f"the process ended with status {status}"
