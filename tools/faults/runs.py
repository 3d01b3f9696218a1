"""Trainings in child processes that can be killed, and a table of what came of it.

The children are forked from one process that has imported Paddle and has never
computed with it; so a start takes a fraction of a second.
"""

import contextlib
import os
import re
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from paddle_attention import files
from paddle_attention.checkpoint import unpickle_arrays
from paddle_attention.cli.main import main

TIMEOUT = 120  # seconds after which a child counts as hanging
_IMAGES, _EVERY = 96, 12

DECODE, NORMALIZE = [{"DecodeImage": None}], [{"NormalizeImage": {"order": ""}}]
RESIZE = [{"ResizeImage": {"size": 32}}]
AUGMENT = [{"RandCropImage": {"size": 32}}, {"RandFlipImage": None}, {"RandomErasing": {"mode": "pixel"}}]


@dataclass
class Row:
    """One line of the table.

    Attributes:
        fault (str): what was done.
        tried, survived (int): how often, and how often all was as it should be.
        lost (str): what a user loses by it.
        failures (list of str): what was not as it should be.
    """

    fault: str
    lost: str = "nothing"
    tried: int = 0
    survived: int = 0
    failures: list = field(default_factory=list)

    def count(self, failure=None):
        """One more attempt; ``failure`` says what went wrong."""
        self.tried += 1
        if failure is None:
            self.survived += 1
        else:
            self.failures.append(str(failure)[:500])

    @contextlib.contextmanager
    def attempt(self):
        """One more attempt, which fails by an exception."""
        try:
            yield
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.count(f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")
        else:
            self.count()


class Child:
    """``function(*arguments)`` in a forked process; its result is the exit status.

    Args:
        function (callable): called in the child.
        *arguments: its arguments.
        log (Path): the file for all output.
    """

    def __init__(self, function, *arguments, log):
        self.log, self.started = log, time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(function, arguments)

    def _run(self, function, arguments):
        status = 70
        try:
            handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            for stream in (1, 2):
                os.dup2(handle, stream)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            status = function(*arguments) or 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def wait(self, timeout=TIMEOUT):
        """The exit status, or minus the signal that ended it; a child that hangs is killed and an error."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.kill(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"still running after {timeout} s:\n{self.output()[-500:]}")

    def kill(self, number):
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def output(self):
        """All that it has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, pattern):
        """Wait until its output has ``pattern``."""
        deadline = time.monotonic() + TIMEOUT
        while not re.search(pattern, self.output()):
            if time.monotonic() > deadline or os.waitid(
                os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
            ):
                raise AssertionError(f"ended or silent before {pattern!r}: {self.output()[-300:]}")
            time.sleep(0.005)

    def last_line(self):
        """The last line of its output."""
        return ([line for line in self.output().splitlines() if line.strip()] or [""])[-1]


class Workshop:
    """A folder with images and YAMLs of a small training that draws all kinds of random numbers.

    Args:
        folder (Path): for everything.
        digits (Path): scikit-learn's digits, by ``python -m paddle_attention digits``.
    """

    def __init__(self, folder, digits):
        self.folder, self.digits, self.number = folder, digits, 0
        lines = (digits / "train_list.txt").read_text().splitlines()[::_EVERY][:_IMAGES]
        self.list = folder / "list.txt"
        self.list.write_text("\n".join(lines) + "\n")

    def config(self, **sections):
        """The training as a dict; ``sections`` such as ``EMA={'decay': 0.9}`` are added or merged."""
        train = self._part(AUGMENT, True)
        train["dataset"]["batch_transform_ops"] = [{"MixupOperator": {"alpha": 0.5}}]
        config = {
            "Global": {
                "device": "cpu",
                "epochs": 3,
                "seed": 5,
                "save_interval": 1,
                "save_steps": 1,
                "keep": 1,
                "print_batch_step": 1,
                "image_shape": [3, 32, 32],
                "checkpoints": "auto",
            },
            "Arch": {
                "name": "AttentionNet",
                "class_num": 10,
                "backbone": {"name": "PPLCNet_x0_25"},
                "attention": [{"name": "CBAM", "at": "blocks5.*", "reduction": 4}],
            },
            "Loss": {"Train": [{"MixCELoss": {"weight": 1.0}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
            "Optimizer": {
                "name": "Momentum",
                "momentum": 0.9,
                "lr": {"name": "Cosine", "learning_rate": 0.05},
                "regularizer": {"name": "L2", "coeff": 0.0001},
            },
            "DataLoader": {"Train": train, "Eval": self._part(RESIZE, False)},
            "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}]},
            "Infer": {
                "infer_imgs": str(self.digits / "3"),
                "batch_size": 50,
                "transforms": [*DECODE, *RESIZE, *NORMALIZE, {"ToCHWImage": None}],
                "PostProcess": {"name": "Topk", "topk": 1},
            },
        }
        for name, section in sections.items():
            config[name] = {**config.get(name, {}), **section}
        return config

    def _part(self, transforms, shuffle):
        """A section of ``DataLoader``."""
        return {
            "dataset": {
                "name": "ImageNetDataset",
                "image_root": str(self.digits),
                "cls_label_path": str(self.list),
                "transform_ops": [*DECODE, *transforms, *NORMALIZE],
            },
            "sampler": {"name": "DistributedBatchSampler", "batch_size": 12, "shuffle": shuffle},
            "loader": {"num_workers": 0},
        }

    def new_run(self, **sections):
        """A :class:`Run` in a folder of its own."""
        self.number += 1
        return Run(self.folder / f"run{self.number}", self.config(**sections))


class Run:
    """One training, which may take several processes."""

    def __init__(self, folder, config):
        self.folder, self.output = folder, folder / "output"
        self.config, self.starts = config, 0
        folder.mkdir(exist_ok=True)
        config["Global"]["output_dir"] = str(self.output)
        config["Global"]["save_inference_dir"] = str(folder / "inference")
        self.yaml = folder / "run.yaml"
        self.yaml.write_text(yaml.safe_dump(config))

    def start(self, prepare=None, tool="train", *overrides):
        """Start a tool in a child; ``prepare()`` is called in it before."""
        self.starts += 1
        options = [word for override in overrides for word in ("-o", override)]

        def run():
            if prepare is not None:
                prepare()
            return main(tool, ["-c", str(self.yaml), *options])

        return Child(run, log=self.folder / f"{tool}{self.starts}.txt")

    def tool(self, tool, *overrides, status=0):
        """Run a tool to its end, which must be ``status``; returns its output."""
        child = self.start(None, tool, *overrides)
        got = child.wait()
        if got != status:
            raise AssertionError(f"{tool} ended with {got}, not {status}: {child.output()[-400:]}")
        return child.output()

    def finish(self):
        """Go on to the last epoch; returns the final state of every file."""
        self.tool("train")
        left = [
            p.name for p in self.output.iterdir() if p.suffix in (files.STAGED, ".aside") or p.name == ".lock"
        ]
        if left:
            raise AssertionError(f"left behind: {left}")
        return self.state()

    def state(self, name="latest"):
        """``{(ending, key): array}`` of the checkpoint ``name``, whose checksums must agree."""
        manifest = files.verify(str(self.output / name))
        if manifest is None:
            raise AssertionError(f"{name} has no manifest")
        found = {}
        for ending in manifest["files"]:
            value = unpickle_arrays((self.output / f"{name}{ending}").read_bytes())
            found.update({(ending, key): item for key, item in value.items()})
        return found

    def saved(self):
        """Whether there is a checkpoint yet."""
        return (self.output / "latest.manifest.json").exists()


def assert_equal(one, other):
    """Raise for the first tensor that differs in one bit."""
    if one.keys() != other.keys():
        raise AssertionError(f"other tensors: {sorted(map(str, one.keys() ^ other.keys()))[:5]}")
    for key, value in one.items():
        if not np.array_equal(value, other[key]):
            raise AssertionError(f"{key} is not bit-equal")
