"""Interrupted runs go on as if nothing had happened: bit-equal, whatever the moment."""

import contextlib
import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddle_attention import CBAM, EMAU, SEBlock, files
from paddle_attention.checkpoint import read_file, save_file
from paddle_attention.config import ConfigError, DataError
from paddle_attention.engine import Engine, saving
from paddle_attention.engine.checkpoints import Checkpoints
from paddle_attention.engine.evaluation import Evaluation
from paddle_attention.engine.steps import NonFiniteError
from paddle_attention.files import DamagedFileError, FolderInUseError
from paddle_attention.interrupt import Interrupted

ROOT = Path(__file__).parent.parent
ATTENTION = {"SE": lambda: SEBlock(8, 2), "CBAM": lambda: CBAM(8, 2), "EMAU": lambda: EMAU(8, k=4)}


class Net(nn.Layer):
    """Statistics, attention and dropout: all that has a state or draws random numbers."""

    def __init__(self, kind="SE"):
        super().__init__()
        self.conv1 = nn.Conv2D(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2D(8)
        self.attention = ATTENTION[kind]()
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.attention(F.relu(self.bn(self.conv1(x))))
        return self.fc(F.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1), 0.3, training=self.training))


def build(config, mode):
    return Net(config["Arch"]["name"])


@pytest.fixture
def config(workspace, tmp_path):
    digits = workspace.path / "dataset" / "digits"
    lines = (digits / "train_list.txt").read_text().splitlines()[:64]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")

    def part(transforms, shuffle):
        return {
            "dataset": {
                "name": "ImageNetDataset",
                "image_root": str(digits),
                "cls_label_path": str(tmp_path / "list.txt"),
                "transform_ops": [{"DecodeImage": None}, *transforms, {"NormalizeImage": {"order": ""}}],
            },
            "sampler": {"name": "DistributedBatchSampler", "batch_size": 8, "shuffle": shuffle},
            "loader": {"num_workers": 0},
        }

    augment = [{"RandCropImage": {"size": 16}}, {"RandFlipImage": None}, {"RandomErasing": {"mode": "pixel"}}]
    train = part(augment, True)
    train["dataset"]["batch_transform_ops"] = [{"MixupOperator": {"alpha": 0.5}}]
    return {
        "Global": {
            "device": "cpu",
            "epochs": 3,
            "output_dir": str(tmp_path / "run"),
            "save_interval": -1,
            "eval_interval": 2,
        },
        "Arch": {"name": "SE", "class_num": 10},
        "Loss": {"Train": [{"MixCELoss": {"weight": 1.0}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "Momentum",
            "momentum": 0.9,
            "lr": {"name": "Cosine", "learning_rate": 0.1, "warmup_epoch": 1},
            "regularizer": {"name": "L2", "coeff": 0.001},
        },
        "DataLoader": {"Train": train, "Eval": part([{"ResizeImage": {"size": 16}}], False)},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}]},
    }


def run(config, until=None, how=None):
    """Train; ``until`` (epoch, step) ends the run there, as ``how`` says."""
    with paddle.utils.unique_name.guard():
        paddle.seed(11)  # the initial weights; the run draws its own seed
        engine = Engine(copy.deepcopy(config), build, "train")
        end = engine.training.end_step

        def look():
            if (engine.position.epoch, engine.position.step) == until:
                how(engine)
            end()

        engine.training.end_step = look
        engine.train()
    return engine


def by_signal(engine):
    engine.training.stop.signal = signal.SIGTERM


class Killed(BaseException):
    pass


def by_kill(engine):
    raise Killed


def state(config, name="latest"):
    prefix = os.path.join(config["Global"]["output_dir"], name)
    manifest = files.verify(prefix)
    found = {}
    for ending in manifest["files"]:
        for key, value in read_file(prefix + ending).items():
            found[ending, key] = value.numpy() if isinstance(value, paddle.Tensor) else value
    return found


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert np.array_equal(value, other[key]), key


def go_on(config, **changes):
    config["Global"].update(checkpoints="auto", **changes)
    return run(config)


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("moment", [(1, 3), (2, 5), (3, 7)])
def test_after_a_signal(config, kind, moment, tmp_path):
    config["Arch"]["name"] = kind
    config["Global"]["seed"] = 5
    whole = copy.deepcopy(config)
    whole["Global"]["output_dir"] = str(tmp_path / "whole")
    run(whole)
    with pytest.raises(
        Interrupted, match=rf"after epoch {moment[0]}, step {moment[1]}; saved in .*/run/latest"
    ):
        run(config, moment, by_signal)
    go_on(config, seed=6)
    assert_equal(state(whole), state(config))
    assert_equal(state(whole, "best_model"), state(config, "best_model"))


VARIANTS = {
    "EMA": {"EMA": {"decay": 0.7}},
    "accumulation": {"Global": {"update_freq": 2}},
    "frozen": {"Global": {"freeze_backbone_epochs": 2}},
    "AdamW": {"Optimizer": {"name": "AdamW", "lr": {"name": "ConstLR", "learning_rate": 0.01}}},
    "by epoch": {
        "Optimizer": {"name": "SGD", "lr": {"name": "Cosine", "learning_rate": 0.1, "by_epoch": True}}
    },
    "no seed": {"Global": {"seed": None}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_after_a_kill(config, variant, tmp_path, monkeypatch):
    """The last state that ``save_steps`` wrote is where it goes on; twice, the second time in the same epoch."""
    config["Global"].update(save_steps=1 if variant == "accumulation" else 2, seed=5)
    for section, changes in VARIANTS[variant].items():
        config[section] = {**(config.get(section) or {}), **changes} if section == "Global" else changes
    whole = copy.deepcopy(config)
    whole["Global"]["output_dir"] = str(tmp_path / "whole")
    monkeypatch.setattr(os, "urandom", lambda n: bytes(range(n)))  # the seed that is drawn
    run(whole)
    config["Global"]["checkpoints"] = "auto"
    for moment in ((2, 5), (2, 7)):
        with pytest.raises(Killed):
            run(config, moment, by_kill)
        monkeypatch.setattr(os, "urandom", lambda n: bytes(n))  # another, which the checkpoint's replaces
    go_on(config)
    assert_equal(state(whole), state(config))


def test_after_a_signal_during_evaluation(config, tmp_path, monkeypatch):
    config["Global"]["seed"] = 5
    whole = copy.deepcopy(config)
    whole["Global"]["output_dir"] = str(tmp_path / "whole")
    run(whole)
    with paddle.utils.unique_name.guard():
        paddle.seed(11)
        engine = Engine(copy.deepcopy(config), build, "train")
        evaluate = engine.evaluation.run

        def stop(epoch):
            engine.training.stop.signal = signal.SIGINT
            return evaluate(epoch)

        monkeypatch.setattr(engine.evaluation, "run", stop)
        with pytest.raises(Interrupted, match="stopped by SIGINT after epoch 2; saved"):
            engine.train()
    assert files.read_manifest(str(tmp_path / "run" / "latest"))["pending"]["loss"] > 0
    assert not (tmp_path / "run" / "best_model.pdparams").exists()
    go_on(config)
    assert_equal(state(whole), state(config))
    assert_equal(state(whole, "best_model"), state(config, "best_model"))


def test_another_division_of_the_epoch(config, tmp_path):
    """Where batches are others now, the interrupted epoch begins again."""
    with pytest.raises(Interrupted):
        run(config, (2, 5), by_signal)
    config["DataLoader"]["Train"]["sampler"]["batch_size"] = 4
    engine = go_on(config)
    assert engine.steps == 16
    assert read_file(str(tmp_path / "run/latest.pdstates"))["epoch"] == 3


@paddle.utils.unique_name.guard()
def rates(config):
    """The learning rate of every step of a run that goes on, and its updates as (epoch, step)."""
    config["Global"]["checkpoints"] = "auto"
    engine, found, updates = Engine(copy.deepcopy(config), build, "train"), [], []
    updated, end = engine._end_update, engine.training.end_step

    def note_update():
        updates.append((engine.position.epoch, engine.position.step + 1))
        updated()

    engine.model.watch(engine._begin_step, note_update, engine.guard)
    engine.training.end_step = lambda: (found.append(engine.schedule.last_lr), end())
    engine.train()
    return found, updates


def test_the_schedule_fits_another_division_of_the_epoch(config):
    """It goes on where this course is, neither where the old one was nor from a rate of 0."""
    config["Optimizer"]["lr"] = {"name": "Cosine", "learning_rate": 0.1}
    with pytest.raises(Interrupted):
        run(config, (2, 5), by_signal)
    config["DataLoader"]["Train"]["sampler"]["batch_size"] = 4
    expected = [
        0.05 * (1 + np.cos(np.pi * i / 48)) for i in range(17, 49)
    ]  # after each of 16 steps of 2 epochs
    np.testing.assert_allclose(rates(config)[0], expected, atol=1e-7)


def test_more_epochs(config, log_lines):
    """A cosine that had come to 0 is entered again, in its longer form."""
    config["Optimizer"]["lr"] = {"name": "Cosine", "learning_rate": 0.1}
    run({**config, "Global": {**config["Global"], "epochs": 1}})
    config["Global"]["epochs"] = 2
    expected = [0.05 * (1 + np.cos(np.pi * i / 16)) for i in range(9, 17)]
    np.testing.assert_allclose(rates(config)[0], expected, atol=1e-7)
    assert any("follows another schedule" in line and "0.05000000" in line for line in log_lines)


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
def test_a_warm_up_more_or_less(config, before, after):
    """The schedule of the file is of another kind; the new one goes on where the run is."""
    config["Optimizer"]["lr"] = {"name": "Cosine", "learning_rate": 0.1, "warmup_epoch": before}
    run({**config, "Global": {**config["Global"], "epochs": 1}})
    config["Global"]["epochs"] = 2
    config["Optimizer"]["lr"]["warmup_epoch"] = after
    steps = np.arange(9, 17)
    expected = 0.05 * (1 + np.cos(np.pi * ((steps - 8) / 8 if after else steps / 16)))
    np.testing.assert_allclose(rates(config)[0], expected, atol=1e-7)


def test_another_accumulation(config):
    """No gradient of one epoch goes into an update of the next, and none is saved half accumulated."""
    with pytest.raises(Interrupted):
        run(config, (1, 3), by_signal)
    config["Global"].update(epochs=1, update_freq=2, eval_during_train=False)
    assert rates(config)[1] == [(1, 2), (1, 4), (1, 6), (1, 8)]


def test_a_stop_in_a_frozen_epoch_is_no_end_of_it(config, log_lines):
    config["Global"]["freeze_backbone_epochs"] = 1
    with pytest.raises(Interrupted):
        run(config, (1, 3), by_signal)
    assert any("backbone frozen for 1 epochs" in line for line in log_lines)
    assert not any("backbone trains from now on" in line for line in log_lines)
    go_on(config)
    assert any("backbone trains from now on" in line for line in log_lines)


def test_a_bad_evaluation_does_not_cost_the_epoch(config, tmp_path, monkeypatch):
    config["Global"].update(epochs=2)
    evaluate = Evaluation.run

    def fail(self, epoch):
        raise DataError("image a.jpg: not an image")

    monkeypatch.setattr(Evaluation, "run", fail)
    with pytest.raises(DataError):
        run(config)
    facts = files.verify(str(tmp_path / "run/latest"))
    assert (facts["epoch"], facts["step"]) == (2, 0)
    monkeypatch.setattr(Evaluation, "run", evaluate)
    go_on(config)
    assert files.verify(str(tmp_path / "run/best_model"))["epoch"] == 2


def test_a_new_run_says_what_it_replaces(config, log_lines):
    config["Global"].update(epochs=1, eval_during_train=False)
    run(config)
    assert not any("another run" in line for line in log_lines)
    run(config)
    assert any(
        "the checkpoints of another run (epoch 1), which this one replaces" in line for line in log_lines
    )


def test_keep(config, tmp_path):
    config["Global"].update(epochs=5, save_interval=1, keep=2)
    run(config)
    assert {p.name.split(".")[0] for p in (tmp_path / "run").iterdir()} == {
        "best_model",
        "epoch_4",
        "epoch_5",
        "latest",
    }


def test_auto_takes_the_newest_whole_one(config, tmp_path, log_lines):
    config["Global"].update(checkpoints="auto", epochs=2, save_interval=1)
    run(config)
    assert any("holds no checkpoint; starting anew" in line for line in log_lines)
    folder = tmp_path / "run"
    checkpoints = Checkpoints(str(folder))
    assert checkpoints.newest() == str(folder / "latest")
    data = bytearray((folder / "latest.pdparams").read_bytes())
    data[-20] ^= 1
    (folder / "latest.pdparams").write_bytes(data)
    assert checkpoints.newest() == str(folder / "epoch_2")
    for name in ("epoch_2.pdopt", "best_model.pdstates"):
        (folder / name).unlink()
    assert checkpoints.newest() == str(folder / "epoch_1")
    assert any("latest is skipped: " in line and "is damaged" in line for line in log_lines)


def test_checkpoints_of_paddleclas_count(config, tmp_path):
    """They lie in a folder of the architecture's name and have no manifest."""
    config["Global"]["epochs"] = 1
    run(config)
    folder = tmp_path / "run"
    (folder / "SE").mkdir()
    for ending in (".pdparams", ".pdopt", ".pdstates"):
        value = read_file(f"{folder}/latest{ending}")
        value = [value] if ending == ".pdopt" else value
        save_file(
            {"metric": 0.0, "epoch": 2} if ending == ".pdstates" else value, f"{folder}/SE/latest{ending}"
        )
    assert Checkpoints(str(folder)).newest() == str(folder / "latest")
    assert Checkpoints(str(folder)).newest("SE") == str(folder / "SE" / "latest")
    config["Global"]["epochs"] = 3
    assert go_on(config).position.epoch == 4


def test_going_back_is_another_run(config, tmp_path):
    """From there on the checkpoints that are further on belong to a run that was left."""
    config["Global"].update(save_interval=1, keep=2)
    run(config)
    first = files.read_manifest(str(tmp_path / "run" / "epoch_3"))["run"]
    config["Global"].update(checkpoints=str(tmp_path / "run" / "epoch_2"), keep=1)
    with pytest.raises(Interrupted):
        run(config, (3, 4), by_signal)
    assert files.read_manifest(str(tmp_path / "run" / "latest"))["run"] != first
    assert Checkpoints(str(tmp_path / "run")).newest() == str(tmp_path / "run" / "latest")
    assert (tmp_path / "run" / "epoch_3.pdopt").exists()


def test_nothing_is_saved_before_the_first_step(config, tmp_path):
    """An optimizer without a state could not go on."""
    engine = Engine(copy.deepcopy(config), build, "train")
    by_signal(engine)
    with pytest.raises(
        Interrupted, match="stopped by SIGTERM before the first step; there is nothing to save"
    ):
        engine.training.stop_waiting()
    assert not (tmp_path / "run").exists()
    config["Global"].update(nan_policy=1, save_steps=1, epochs=1)
    with paddle.utils.unique_name.guard():
        poison(config, 1, 0).train()
    assert go_on(config, epochs=2).position.epoch == 3


def test_processes_must_agree(config, monkeypatch):
    engine = Engine(copy.deepcopy(config), build, "train")
    saving.require_agreement(engine.position)
    monkeypatch.setattr(saving, "agree", lambda *numbers: (4, -1, 0, 0))
    with pytest.raises(ConfigError, match=r"the processes found different checkpoints \(epochs 0 to 3\)"):
        saving.require_agreement(engine.position)


def test_auto_stays_with_the_run_that_was_here_last(config, tmp_path):
    """A finished older run in the folder is further on, but another."""
    run(config)
    config["Global"].update(checkpoints=None, epochs=2, seed=9)
    with pytest.raises(Interrupted):
        run(config, (1, 3), by_signal)
    assert Checkpoints(str(tmp_path / "run")).newest() == str(tmp_path / "run" / "latest")
    other = tmp_path / "run" / "another_experiment"
    shutil.copytree(tmp_path / "run", other)
    engine = go_on(config)
    assert engine.random.seed == 9
    assert read_file(str(tmp_path / "run/latest.pdstates"))["epoch"] == 2


def test_keep_removes_what_is_its_own(config, tmp_path):
    config["Global"].update(epochs=2, save_interval=1)
    run(config)
    config["Global"].update(epochs=1, keep=1)
    run(config)
    assert {p.name for p in (tmp_path / "run").glob("epoch_*.pdopt")} == {"epoch_1.pdopt", "epoch_2.pdopt"}
    run_of = {n: files.read_manifest(str(tmp_path / "run" / f"epoch_{n}"))["run"] for n in (1, 2)}
    assert run_of[1] != run_of[2]


@pytest.mark.parametrize("last", ["best_model", "epoch_3"])
def test_killed_at_the_end_of_the_last_epoch(config, tmp_path, monkeypatch, last):
    """Between two of the checkpoints that belong to it: what is missing is written when the run goes on."""
    config["Global"].update(seed=5, save_interval=1, eval_interval=1)
    whole = copy.deepcopy(config)
    whole["Global"]["output_dir"] = str(tmp_path / "whole")
    run(whole)
    save = Checkpoints.save

    def die(self, name, values, info, facts):
        save(self, name, values, info, facts)
        if name == last and info["epoch"] == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", die)
        try:
            run(config)
            killed = False  # the best was an earlier one
        except Killed:
            killed = True
    assert killed or last == "best_model"
    go_on(config)
    for name in ("latest", "best_model", "epoch_3"):
        assert (
            files.read_manifest(str(tmp_path / "run" / name))["epoch"]
            == files.read_manifest(str(tmp_path / "whole" / name))["epoch"]
        ), name
        assert_equal(state(whole, name), state(config, name))


def test_what_dead_runs_left_goes(config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (
        "latest.pdparams.staged",
        "epoch_3.pdopt.staged",
        "best_model.manifest.json.staged",
        "latest.pdstates.aside",
    ):
        (folder / name).write_text("x")
    mine = ("mine.txt", "notes.old", "latest.pdparams.old", "x.staged", "my_best.pdparams.staged")
    for name in mine:
        (folder / name).write_text("x")
    (folder / "inference.aside").mkdir()
    config["Global"]["epochs"] = 1
    run(config)
    assert {p.name for p in folder.iterdir() if p.suffix in (".staged", ".aside")} == {
        "inference.aside",
        "x.staged",
        "my_best.pdparams.staged",
    }
    assert all((folder / name).exists() for name in mine)


def test_a_second_run_is_refused(config, tmp_path):
    with (
        files.FolderLock(str(tmp_path / "run"), "training"),
        pytest.raises(FolderInUseError, match="in use by"),
    ):
        run(config)


# --- checkpoints that do not fit -----------------------------------------------------------


def spoil_optimizer(change):
    def spoil(folder):
        value = read_file(f"{folder}/latest.pdopt")
        save_file(change(value), f"{folder}/latest.pdopt")

    return spoil


def states(value):
    return lambda folder: save_file(value, f"{folder}/latest.pdstates")


def renamed(value):
    return {k.replace("conv2d_0", "conv2d_9"): v for k, v in value.items()}


BAD = [
    (states({"metric": 1.0, "epoch": -5}), r"latest\.pdstates: 'epoch' must be an integer from 0, but is -5"),
    (states({"metric": 1.0, "epoch": 1.5}), "'epoch' must be an integer from 0, but is 1.5"),
    (states({"metric": "x", "epoch": 1}), "'metric' must be a number, but is 'x'"),
    (states({"metric": float("nan"), "epoch": 1}), "'metric' must be a number, but is nan"),
    (states({"epoch": 1}), r"must hold 'epoch' and 'metric', but holds \{'epoch': 1\}"),
    (states([1]), r"must hold 'epoch' and 'metric', but holds \[1\]"),
    (spoil_optimizer(lambda v: [v, v]), r"latest\.pdopt is no optimizer's state but list"),
    (spoil_optimizer(renamed), "conv2d_9.* belongs to no parameter of this network"),
    (
        spoil_optimizer(lambda v: {k: paddle.zeros([3]) if "velocity" in k else x for k, x in v.items()}),
        r"velocity_0 is \[3\], its parameter \[8, 3, 3, 3\]",
    ),
    (
        spoil_optimizer(lambda v: {k.replace("velocity", "moment1"): x for k, x in v.items()}),
        "it has no 'velocity', which Momentum needs; it was written by another optimizer",
    ),
    (
        spoil_optimizer(lambda v: {**v, "LR_Scheduler": {"last_epoch": 1}}),
        r"does not fit: its schedule is \{'last_epoch': 1\}",
    ),
    (
        spoil_optimizer(lambda v: {k: 5 if "velocity" in k else x for k, x in v.items()}),
        "velocity_0 is 5, its parameter",
    ),
    (
        spoil_optimizer(lambda v: {**v, "LR_Scheduler": {**v["LR_Scheduler"], "last_epoch": "x"}}),
        r"latest\.pdopt does not fit: its schedule is",
    ),
    (
        spoil_optimizer(lambda v: {k: x.astype("float64") if "velocity" in k else x for k, x in v.items()}),
        r"velocity_0 is of type paddle\.float64",
    ),
    (
        spoil_optimizer(lambda v: {k: x * float("nan") if "velocity" in k else x for k, x in v.items()}),
        r"latest\.pdopt: .*velocity_0 holds numbers that are not finite",
    ),
]


MANIFESTS = {
    "seed": [None, "x", -5],
    "sections": [3],
    "meters": [None, {"count": "a", "sums": {}}],
    "step": [1.5, -1, 300],
    "pending": [3, {"a": "b"}],
    "processes": [0],
    "scaler": [5],
}


@pytest.mark.parametrize("key", MANIFESTS)
def test_manifests_of_something_else(config, tmp_path, key):
    config["Global"]["epochs"] = 1
    run(config)
    path = tmp_path / "run" / "latest.manifest.json"
    good = json.loads(path.read_text())
    config["Global"].update(epochs=2, checkpoints=str(tmp_path / "run" / "latest"))
    for value in MANIFESTS[key]:
        path.write_text(json.dumps({**good, key: value}))
        with pytest.raises(
            DamagedFileError, match=rf"latest\.manifest\.json is no training's: .*{key}|step 300 of 8"
        ):
            run(config)


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[m[:50] for _, m in BAD])
def test_checkpoints_that_do_not_fit(config, tmp_path, spoil, message):
    config["Global"]["epochs"] = 1
    run(config)
    spoil(tmp_path / "run")
    (tmp_path / "run" / "latest.manifest.json").unlink()  # else the checksum is another
    config["Global"].update(epochs=2, checkpoints=str(tmp_path / "run" / "latest"))
    with pytest.raises(ValueError, match=message):
        run(config)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("Auto", "did you mean 'auto'"),
        ("run", r"run' is a folder; name a checkpoint in it, such as .*run/latest"),
    ],
)
def test_prefixes_that_are_none(config, tmp_path, prefix, message):
    config["Global"].update(checkpoints=prefix if prefix == "Auto" else str(tmp_path / prefix))
    with pytest.raises((ValueError, OSError), match=message):
        run(config)


def test_a_flipped_bit_is_refused(config, tmp_path):
    config["Global"].update(epochs=1)
    run(config)
    path = tmp_path / "run" / "latest.pdparams"
    data = bytearray(path.read_bytes())
    data[-50] ^= 64
    path.write_bytes(data)
    config["Global"].update(checkpoints=str(tmp_path / "run" / "latest"), epochs=2)
    with pytest.raises(DamagedFileError, match=r"latest\.pdparams is damaged"):
        run(config)
    config["Global"]["pretrained_model"] = str(tmp_path / "run" / "latest")
    with pytest.raises(DamagedFileError, match=r"latest\.pdparams is damaged"):
        Engine(config, build, "eval")


def test_ema_needs_its_file(config, tmp_path):
    config["Global"]["epochs"] = 1
    run(config)
    config["EMA"] = {"decay": 0.9}
    config["Global"].update(epochs=2, checkpoints=str(tmp_path / "run" / "latest"))
    with pytest.raises(ValueError, match=r"was written without EMA: it has no \.pdema"):
        run(config)


# --- losses that are no numbers --------------------------------------------------------------


def poison(config, epoch, step, times=1, hidden=False):
    """An engine whose network gives NaN for ``times`` batches from the one after ``step``.

    ``hidden`` NaN goes into the network, whose ReLU makes 0 of it: the loss is finite, the gradient is not.
    """
    engine = Engine(copy.deepcopy(config), build, "train")
    forward = engine.network.forward

    def spoiled(x):
        position = engine.position
        if engine.network.training and position.epoch == epoch and step <= position.step < step + times:
            return forward(x * float("nan") if hidden else x) * (1.0 if hidden else float("nan"))
        return forward(x)

    engine.network.forward = spoiled
    return engine


@pytest.mark.parametrize("hidden", [False, True])
def test_what_is_not_finite_stops(config, tmp_path, hidden):
    config["Global"]["save_steps"] = 2
    engine = poison(config, 1, 5, hidden=hidden)
    what = r"the gradient of conv2d_\d+\.w_0 is not finite" if hidden else "the loss is nan"
    with pytest.raises(
        NonFiniteError,
        match=what + r" at step 5 of epoch 1; the images of this process: .*/\d+\.bmp, .* and 5 more "
        r"\(all in .*nonfinite_batch\.txt\)\. Nothing of this step was saved\. Lower Optimizer\.lr",
    ):
        engine.train()
    assert len((tmp_path / "run" / "nonfinite_batch.txt").read_text().splitlines()) == 8
    assert files.verify(str(tmp_path / "run" / "latest"))["step"] == 4


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("update_freq", [1, 2])
def test_batches_may_be_skipped(config, log_lines, update_freq, hidden):
    config["Global"].update(nan_policy=2, epochs=1, update_freq=update_freq)
    engine = poison(config, 1, 4, times=2 // update_freq if hidden else 2, hidden=hidden)
    engine.train()
    expected = 1 if hidden and update_freq == 2 else 2  # the gradients of an update are looked at together
    assert engine.guard.skipped == expected
    assert sum("batch skipped" in line for line in log_lines) == expected
    assert all(np.isfinite(v.numpy()).all() for v in engine.network.state_dict().values())
    with pytest.raises(NonFiniteError, match="after 2 skipped batches"):
        poison(config, 1, 4, times=3).train()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_skipped_batch_changes_nothing(config, tmp_path, hidden):
    """Neither weights nor running statistics."""
    config["Global"].update(nan_policy=1, epochs=1, save_steps=1, keep=None)
    engine = poison(config, 1, 4, hidden=hidden)
    kept = []
    end = engine.training.end_step
    engine.training.end_step = lambda: (
        end(),
        kept.append({k: v.numpy() for k, v in engine.network.state_dict().items()}),
    )
    engine.train()
    assert_equal(kept[3], kept[4])
    assert any(not np.array_equal(kept[4][k], kept[5][k]) for k in kept[5])


@pytest.mark.parametrize("update_freq", [1, 2])
def test_skipped_right_after_a_kill(config, tmp_path, update_freq):
    """The first updates after it are skipped, and the run is killed once more: the schedule still goes on."""
    config["Global"].update(
        nan_policy=4, save_steps=1, update_freq=update_freq, seed=3, eval_during_train=False
    )
    config["EMA"] = {"decay": 0.9}

    def attempt(output, moment):
        config["Global"].update(output_dir=str(tmp_path / output), checkpoints="auto")
        paddle.seed(11)
        engine = poison(config, 1, 4, times=4)
        end = engine.training.end_step

        def look():
            end()
            if (engine.position.epoch, engine.position.step) == moment:
                raise Killed

        engine.training.end_step = look
        with pytest.raises(Killed) if moment else contextlib.nullcontext():
            engine.train()

    with paddle.utils.unique_name.guard():
        attempt("unbroken", None)
    unbroken = state(config)
    for moment in ((1, 4), (1, 6), None):
        with paddle.utils.unique_name.guard():
            attempt("broken", moment)
    assert_equal(state(config), unbroken)


def test_a_skipped_batch_does_not_move_the_average(config):
    config["Global"].update(nan_policy=1, epochs=1)
    config["EMA"] = {"decay": 0.5}
    engine, kept = poison(config, 1, 4), []
    end = engine.training.end_step
    engine.training.end_step = lambda: (
        end(),
        kept.append({k: v.numpy() for k, v in engine.average.state_dict().items()}),
    )
    engine.train()
    assert_equal(kept[3], kept[4])
    assert any(not np.array_equal(kept[4][k], kept[5][k]) for k in kept[5])


def test_weights_that_are_not_finite_are_not_saved(config, tmp_path):
    """A gradient may overflow in the last step of an epoch, behind a loss that is finite."""
    config["Global"].update(epochs=2, eval_during_train=False)
    engine = Engine(copy.deepcopy(config), build, "train")
    end = engine.training.end_step

    def overflow():
        end()
        if (engine.position.epoch, engine.position.step) == (2, 8):
            engine.network.fc.bias.set_value(paddle.full([10], float("inf")))

    engine.training.end_step = overflow
    with pytest.raises(
        NonFiniteError, match=r"latest\.pdparams is not written: fc\.bias .*latest of epoch 1 is kept"
    ):
        engine.train()
    assert files.verify(str(tmp_path / "run" / "latest"))["epoch"] == 1


def test_evaluation_of_weights_that_are_not_finite(config, tmp_path):
    network = Net()
    network.fc.bias.set_value(paddle.full([10], float("nan")))
    save_file(network.state_dict(), str(tmp_path / "nan.pdparams"))
    config["Global"]["pretrained_model"] = str(tmp_path / "nan")
    with pytest.raises(ValueError, match="the network's output is not finite"):
        Engine(config, build, "eval").evaluate()
    image = config["DataLoader"]["Eval"]["dataset"]["image_root"] + "/3"
    config["Infer"] = {
        "infer_imgs": image,
        "transforms": [*config["DataLoader"]["Eval"]["dataset"]["transform_ops"], {"ToCHWImage": None}],
        "PostProcess": {"name": "Topk"},
    }
    with pytest.raises(ValueError, match=r"image .*\.bmp: the network's output is not finite"):
        Engine(config, build, "infer").infer()


# --- whole processes ----------------------------------------------------------------------


@pytest.mark.parametrize("part", ["Train", "Eval"])
def test_labels_beyond_the_network(config, tmp_path, part):
    """Where the YAML does not say how many classes there are, the network's first output does."""
    del config["Arch"]["class_num"]
    config["Global"]["eval_interval"] = 1
    config["DataLoader"]["Train"]["dataset"]["batch_transform_ops"] = None
    lines = (tmp_path / "list.txt").read_text().splitlines()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "list.txt").write_text("\n".join([*lines[:-1], lines[-1].split()[0] + " 10"]) + "\n")
    config["DataLoader"][part]["dataset"]["cls_label_path"] = str(tmp_path / "bad" / "list.txt")
    with pytest.raises(ValueError, match=r"list\.txt:64: label 10 of .* is outside 0 to 9"):
        run(config)


def test_amp_on_the_cpu_says_what_it_does(config, log_lines):
    config["AMP"] = {"use_amp": True, "level": "O1"}
    config["Global"]["epochs"] = 1
    with pytest.raises(NonFiniteError, match="the gradient of"):  # it has no loss scaler that would look
        poison(config, 1, 5, hidden=True).train()
    run(config)
    assert "AMP has no effect on the CPU: Paddle computes in float32 there" in log_lines


def test_skipping_is_refused_where_it_cannot_be(config, monkeypatch):
    monkeypatch.setattr(paddle.distributed, "get_world_size", lambda: 2)
    config["Global"]["on_bad_image"] = "skip"
    from paddle_attention.engine.data import build_loader

    with pytest.raises(
        ConfigError, match="on_bad_image: 'skip' is not possible where several processes evaluate"
    ):
        build_loader(config, "Eval", 10)


STUCK = """
import os, signal, sys, threading, time
from paddle_attention.cli.main import main
from paddle_attention.engine.datasets import ImageNetDataset

read, parent = ImageNetDataset.image, os.getpid()

def stuck(self, index):
    if index == 20:
        time.sleep(1000)  # a disk that does not answer
    return read(self, index)

ImageNetDataset.image = stuck
sys.exit(main("train", sys.argv[1:]))
"""


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("twice", [False, True])
def test_signals_while_data_does_not_come(workspace, tmp_path, twice, workers):
    """A run between two steps stops there; a second Ctrl-C ends it at once, stuck processes and all."""
    log, script = tmp_path / "log.txt", tmp_path / "stuck.py"
    script.write_text(STUCK)
    options = (
        f"Global.output_dir={tmp_path / 'run'}",
        f"DataLoader.Train.loader.num_workers={workers}",
        "DataLoader.Train.sampler.shuffle=False",
        "DataLoader.Train.sampler.batch_size=8",
        "Global.print_batch_step=1",
    )
    process = start(workspace, log, *options, script=script)
    wait_for(log, r"Iter: 1/", process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    if twice:
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    last = log.read_text().splitlines()[-1]
    assert last == "interrupted" or re.match(r"stopped by SIGINT after epoch 1, step 2; saved in", last)
    if not twice:
        assert files.verify(str(tmp_path / "run" / "latest"))["step"] == 2


def start(workspace, log, *overrides, script=ROOT / "tools/train.py"):
    """A training of the quick start's YAML in the background, its output in ``log``."""
    options = [word for override in overrides for word in ("-o", override)]
    yaml_path = ROOT / "ppcls_configs/quick_start/se_resnet18_digits.yaml"
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, str(script), "-c", str(yaml_path), *options],
            cwd=workspace.path,
            env=workspace.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(log, pattern, process, timeout=120):
    deadline = time.monotonic() + timeout
    while not re.search(pattern, log.read_text()):
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(workspace, tmp_path, number, code):
    """The tool ends by itself, says where it saved, and goes on there."""
    folder, log = tmp_path / "run", tmp_path / "log.txt"
    options = (
        f"Global.output_dir={folder}",
        "DataLoader.Train.loader.num_workers=1",
        "Global.print_batch_step=1",
        "DataLoader.Train.sampler.batch_size=16",
    )
    process = start(workspace, log, *options)
    wait_for(log, r"Iter: 2/", process)
    os.killpg(process.pid, number)  # the processes that read get it, too
    assert process.wait(60) == code
    last = log.read_text().splitlines()[-1]
    assert re.fullmatch(
        rf"stopped by {signal.Signals(number).name} after epoch 1, step \d+; saved in {folder}/latest; go on with "
        rf"-o Global\.checkpoints={folder}/latest",
        last,
    )
    assert "Traceback" not in log.read_text()
    assert not (folder / ".lock").exists()
    step = files.verify(str(folder / "latest"))["step"]
    if number == signal.SIGINT:
        return
    process = start(workspace, log, *options, f"Global.checkpoints={folder}/latest")
    wait_for(log, rf"epoch 1, step {step}\n[\s\S]*Iter: {step}/", process)
    second = start(workspace, tmp_path / "second.txt", *options)
    assert second.wait(60) == 2
    assert (
        f"error: {folder} is in use by training, process {process.pid}"
        in (tmp_path / "second.txt").read_text()
    )
    process.kill()
    process.wait()
    assert json.loads((folder / "latest.manifest.json").read_text())["step"] == step
