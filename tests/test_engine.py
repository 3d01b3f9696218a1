"""The embedded engine, on tiny real trainings of a small network on the digits."""

import copy
import io
import json
import math
import pickle
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddle_attention import SEBlock
from paddle_attention.checkpoint import load_weights, read_file, save_file
from paddle_attention.engine import ConfigError, Engine, check_config
from paddle_attention.engine.losses import CELoss, CombinedLoss, MixCELoss
from paddle_attention.engine.metrics import Meters
from paddle_attention.engine.optim import build_optimizer
from paddle_attention.engine.scores import TopkAcc


class Small(nn.Layer):
    """Two convolutions and an attention; ``bn`` off makes batches independent."""

    def __init__(self, bn=True):
        super().__init__()
        self.conv1 = nn.Conv2D(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2D(8) if bn else nn.Identity()
        self.attention = SEBlock(8, 2)
        self.conv2 = nn.Conv2D(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.attention(self.bn(self.conv1(x))))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def build_small(config, mode):
    return Small(**{k: v for k, v in config["Arch"].items() if k == "bn"})


@pytest.fixture(scope="module")
def base(workspace):
    """A config of 96 training and 50 test digits of 8 x 8 pixels."""
    root = workspace.path / "dataset" / "digits"
    for part, n in (("train", 96), ("test", 50)):
        lines = (root / f"{part}_list.txt").read_text().splitlines()[:n]
        (root / f"{part}_few.txt").write_text("\n".join(lines))
    transforms = [
        {"DecodeImage": {"to_rgb": True, "channel_first": False}},
        {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}},
    ]

    def part(name, shuffle, drop_last):
        return {
            "dataset": {
                "name": "ImageNetDataset",
                "image_root": str(root),
                "cls_label_path": str(root / f"{name}_few.txt"),
                "transform_ops": transforms,
            },
            "sampler": {
                "name": "DistributedBatchSampler",
                "batch_size": 16,
                "drop_last": drop_last,
                "shuffle": shuffle,
            },
            "loader": {"num_workers": 0, "use_shared_memory": True},
        }

    return {
        "Global": {
            "checkpoints": None,
            "pretrained_model": None,
            "device": "cpu",
            "save_interval": 2,
            "eval_during_train": True,
            "eval_interval": 1,
            "epochs": 4,
            "print_batch_step": 4,
            "use_visualdl": False,
            "image_shape": [3, 8, 8],
            "seed": 3,
        },
        "Arch": {"name": "Small", "class_num": 10},
        "Loss": {"Train": [{"CELoss": {"weight": 1.0}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "Momentum",
            "momentum": 0.9,
            "lr": {"name": "Cosine", "learning_rate": 0.1, "warmup_epoch": 1},
            "regularizer": {"name": "L2", "coeff": 0.0001},
        },
        "DataLoader": {"Train": part("train", True, True), "Eval": part("test", False, False)},
        "Infer": {
            "infer_imgs": str(root / "3"),
            "batch_size": 7,
            "transforms": [*transforms, {"ToCHWImage": None}],
            "PostProcess": {
                "name": "Topk",
                "topk": 2,
                "class_id_map_file": str(root / "label_list.txt"),
            },
        },
        "Metric": {"Train": [{"TopkAcc": {"topk": [1, 5]}}], "Eval": [{"TopkAcc": {"topk": [1, 5]}}]},
    }


@pytest.fixture
def config(base, tmp_path):
    changed = copy.deepcopy(base)
    changed["Global"]["output_dir"] = str(tmp_path)
    return changed


@pytest.fixture
def log(log_lines):
    return log_lines


def put(config, path, value):
    """Set ``config['a']['b']`` by ``'a.b'``."""
    *keys, last = path.split(".")
    for key in keys:
        config = config[int(key)] if isinstance(config, list) else config.setdefault(key, {})
    config[last] = value


def train(config):
    """A training with the automatic names of a new process, as the files of a resumed run need them."""
    with paddle.utils.unique_name.guard():
        engine = Engine(config, build_small, "train")
        engine.train()
    return engine


def weights(prefix, ending=".pdparams"):
    return {k: v.numpy() for k, v in read_file(str(prefix) + ending).items()}


def same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    return all(np.allclose(a[k], b[k], rtol=tolerance, atol=tolerance) for k in a)


# --- training ----------------------------------------------------------------------------


def test_training_learns_logs_and_saves(config, tmp_path, log):
    config["Global"].update(use_visualdl=True, epochs=5)
    engine = train(config)
    files = {p.name for p in tmp_path.iterdir()}
    for prefix in ("latest", "best_model", "epoch_2", "epoch_4"):
        assert {f"{prefix}.pdparams", f"{prefix}.pdopt", f"{prefix}.pdstates"} <= files
    assert "epoch_3.pdparams" not in files
    assert not [f for f in files if f.endswith(".tmp")]
    assert any(f.startswith("vdlrecords") for f in files)

    states = read_file(str(tmp_path / "best_model.pdstates"))
    assert states == engine.best
    assert read_file(str(tmp_path / "latest.pdstates"))["epoch"] == 5

    # PaddleClas' lines, to the letter.
    number, time = r"\d+\.\d{5}", r"\d+\.\d{5}"
    values = rf"CELoss: {number}, loss: {number}, top1: {number}, top5: {number}"
    lines = {
        rf"\[Train\]\[Epoch (\d)/5\]\[Iter: ([04])/6\]lr\(LinearWarmup\): \d\.\d{{8}}, {values}, "
        rf"batch_cost: {time}s, reader_cost: {time}, ips: {time} samples/s, eta: \d:\d\d:\d\d": 10,
        rf"\[Train\]\[Epoch \d/5\]\[Avg\]{values}": 5,
        rf"\[Eval\]\[Epoch \d\]\[Iter: 0/4\]{values}, batch_cost: {time}s, reader_cost: {time}, "
        rf"ips: {time} images/sec": 5,
        rf"\[Eval\]\[Epoch \d\]\[Avg\]{values}": 5,
        r"\[Eval\]\[Epoch \d\]\[best metric: 0\.\d+\]": 5,
        rf"Already save model in {tmp_path}/(latest|best_model|epoch_\d)": None,
    }
    for pattern, times in lines.items():
        found = [line for line in log if re.fullmatch(pattern, line)]
        assert found, pattern
        assert times is None or len(found) == times
    losses = [
        float(re.search(r"loss: ([\d.]+)", x)[1]) for x in log if x.startswith("[Train]") and "[Avg]" in x
    ]
    assert losses[-1] < 0.9 * losses[0]


def test_same_seed_same_weights(config, tmp_path):
    results = []
    for run in ("a", "b"):
        config["Global"].update(output_dir=str(tmp_path / run), epochs=1)
        train(copy.deepcopy(config))
        results.append(weights(tmp_path / run / "latest"))
    assert same(*results)
    config["Global"].update(output_dir=str(tmp_path / "c"), seed=4)
    train(config)
    assert not same(results[0], weights(tmp_path / "c" / "latest"))


@pytest.mark.parametrize("ema", [False, True])
def test_resuming_continues_exactly(config, tmp_path, ema, log):
    if ema:
        config["EMA"] = {"decay": 0.8}
    straight, first, second = (copy.deepcopy(config) for _ in range(3))
    straight["Global"]["output_dir"] = str(tmp_path / "straight")
    train(straight)
    first["Global"].update(output_dir=str(tmp_path / "parts"))
    # Stop after epoch 2 of 4, as an interrupted run would have.
    with paddle.utils.unique_name.guard():
        engine = Engine(first, build_small, "train")
        end = engine.training.end_epoch

        def stop(epoch, averages):
            end(epoch, averages)
            engine.model.stop_training = epoch == 2

        engine.training.end_epoch = stop
        engine.train()
    paddle.seed(99)
    second["Global"].update(
        output_dir=str(tmp_path / "parts"), checkpoints=str(tmp_path / "parts" / "latest"), seed=77
    )
    resumed = train(second)
    assert any("epoch 2" in line for line in log if line.startswith("Finish load checkpoints"))
    for ending in [".pdparams", ".pdema"] if ema else [".pdparams"]:
        assert same(
            weights(tmp_path / "straight" / "latest", ending), weights(tmp_path / "parts" / "latest", ending)
        )
    best = read_file(str(tmp_path / "straight" / "best_model.pdstates"))
    assert resumed.best == best
    second["Global"]["checkpoints"] = str(tmp_path / "parts" / "latest")
    train(second)
    assert resumed.best == best
    assert any(line.startswith("nothing to train") for line in log)


def test_moving_average(config, tmp_path):
    """The average of the weights after every step, by hand."""
    config["EMA"] = {"decay": 0.7}
    config["Global"].update(epochs=1, eval_during_train=False)
    engine = Engine(config, build_small, "train")
    history = [{k: v.numpy() for k, v in engine.network.state_dict().items()}]

    class Keep(paddle.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            history.append({k: v.numpy() for k, v in engine.network.state_dict().items()})

    fit = engine.model.fit
    engine.model.fit = lambda *a, callbacks, **k: fit(*a, callbacks=[Keep(), *callbacks], **k)
    engine.train()
    assert len(history) == 7
    for key, average in weights(tmp_path / "latest").items():
        expected = history[0][key]
        for state in history[1:]:
            expected = 0.7 * expected + 0.3 * state[key]
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)
    assert same(weights(tmp_path / "latest", ".pdema"), history[-1])


def test_gradient_accumulation_equals_a_larger_batch(config, tmp_path):
    config["Arch"]["bn"] = False
    config["Global"].update(epochs=2)
    config["DataLoader"]["Train"]["sampler"]["shuffle"] = False
    config["Optimizer"]["lr"]["by_epoch"] = True
    results = []
    for run, batch_size, update_freq in (("a", 32, 1), ("b", 16, 2)):
        config["Global"].update(output_dir=str(tmp_path / run), update_freq=update_freq)
        config["DataLoader"]["Train"]["sampler"]["batch_size"] = batch_size
        train(copy.deepcopy(config))
        results.append(weights(tmp_path / run / "latest"))
    assert same(*results, tolerance=1e-5)


def test_leftover_batches_are_not_an_update(config):
    config["Global"].update(update_freq=4, epochs=1)
    assert train(config).steps == 4  # of 6
    config["Global"]["update_freq"] = 7
    with pytest.raises(ConfigError, match="update_freq: 7 is more than the 6 batches"):
        Engine(config, build_small, "train")


VARIANTS = [
    {"AMP": {"use_amp": True, "level": "O1", "scale_loss": 128.0, "use_dynamic_loss_scaling": True}},
    {"AMP": {"use_amp": True, "level": "O2", "scale_loss": 128.0, "use_fp16_test": True}},
    {"Global.to_static": True},
    {"Global.eval_during_train": False},
    {"Global.class_num": 10},
    {"DataLoader.Train.dataset.batch_transform_ops": [{"MixupOperator": {"alpha": 0.5}}]},
    {
        "DataLoader.Train.dataset.batch_transform_ops": [
            {"OpSampler": {"MixupOperator": {"alpha": 0.5, "prob": 0.4}, "CutmixOperator": {"prob": 0.4}}}
        ],
        "Loss.Train": [{"MixCELoss": {"weight": 1.0, "epsilon": 0.1}}],
    },
    {"DataLoader.Train.sampler": {"name": "BatchSampler", "batch_size": 8, "shuffle": True}},
    {"DataLoader.Train.sampler": {"batch_size": 8, "shuffle": True, "drop_last": True}},
    {"Loss.Train": [{"CELoss": {"weight": 0.5}}, {"MixCELoss": {"weight": 0.5, "epsilon": 0.1}}]},
    {"Metric.Train": None, "Loss.Eval": None},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_variants_train(config, changes, tmp_path, log):
    config["Global"]["epochs"] = 2
    for path, value in changes.items():
        put(config, path, value)
    engine = train(config)
    state = weights(tmp_path / "latest")
    assert all(np.isfinite(v).all() for v in state.values())
    mixing = "DataLoader.Train.dataset.batch_transform_ops" in changes
    accuracies = any("top1" in x for x in log if x.startswith("[Train]"))
    assert accuracies == (not mixing and "Metric.Train" not in changes)
    assert (tmp_path / "best_model.pdparams").exists() == (changes != {"Global.eval_during_train": False})
    assert isinstance(engine.network, nn.Layer)


def test_pretrained_backbone_starts_a_training(config, tmp_path, log):
    state = {k: v for k, v in Small().state_dict().items() if not k.startswith("attention")}
    state["fc.weight"], state["fc.bias"] = paddle.zeros([16, 4]), paddle.zeros([4])
    save_file(state, str(tmp_path / "backbone.pdparams"))
    config["Global"]["pretrained_model"] = str(tmp_path / "backbone")
    engine = Engine(config, build_small, "train")
    assert np.array_equal(engine.network.conv1.weight.numpy(), state["conv1.weight"].numpy())
    assert any("4 of the attention layers" in line and "fc.weight" in line for line in log)


@pytest.mark.parametrize("name", ["Cifar10", "Cifar100"])
def test_cifar_archives(config, tmp_path, name):
    """Archives in the official format: the pixels and labels arrive, and a training runs."""
    random = np.random.RandomState(0)
    label_key = b"labels" if name == "Cifar10" else b"fine_labels"
    members = {
        "Cifar10": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"],
        "Cifar100": ["train", "test"],
    }[name]
    archive = tmp_path / "cifar.tar.gz"
    content = {}
    with tarfile.open(archive, "w:gz") as tar:
        for member in members:
            content[member] = random.randint(0, 256, (20, 3072), dtype="uint8"), random.randint(0, 10, 20)
            pixels, labels = content[member]
            data = pickle.dumps({b"data": pixels, label_key: labels.tolist()})
            info = tarfile.TarInfo(f"cifar/{member}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for part, mode in (("Train", "train"), ("Eval", "test")):
        section = config["DataLoader"][part]["dataset"]
        normalize = section["transform_ops"][1:]
        config["DataLoader"][part]["dataset"] = {
            "name": name, "mode": mode, "data_file": str(archive), "transform_ops": normalize,
        }  # fmt: skip
    config["Global"].update(image_shape=[3, 32, 32], epochs=1)
    engine = train(config)
    pixels, labels = content[members[-1]]
    dataset = engine.eval_loader.dataset
    assert len(dataset) == 20
    assert len(engine.train_loader.dataset) == 20 * (len(members) - 1)
    for i in (0, 7):
        image, label = dataset[i]
        assert label == labels[i]
        np.testing.assert_allclose(image, pixels[i].reshape(3, 32, 32) / 127.5 - 1, atol=1e-5)


# --- evaluation and inference ------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    config = copy.deepcopy(base)
    config["Global"].update(output_dir=str(directory), epochs=8)
    train(config)
    return str(directory / "best_model")


def test_evaluation_by_hand(config, trained):
    config["Global"]["pretrained_model"] = trained
    engine = Engine(config, build_small, "eval")
    got = engine.evaluate()
    assert got["top1"] == read_file(trained + ".pdstates")["metric"]
    network = Small()
    network.set_state_dict(read_file(trained + ".pdparams"))
    network.eval()
    images, labels = zip(*[engine.eval_loader.dataset[i] for i in range(50)], strict=True)
    logits = network(paddle.to_tensor(np.stack(images))).numpy().astype("float64")
    labels = np.array(labels)
    order = np.argsort(-logits, axis=1)
    assert got["top1"] == (order[:, 0] == labels).mean()
    assert got["top5"] == (order[:, :5] == labels[:, None]).any(1).mean()
    log_probability = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert abs(got["CELoss"] + log_probability[np.arange(50), labels].mean()) < 1e-6


def test_infer(config, trained):
    config["Global"]["pretrained_model"] = trained
    results = Engine(config, build_small, "infer").infer()
    paths = [r["file_name"] for r in results]
    assert paths == sorted(paths)
    assert len(paths) == 183
    assert sum(r["label_names"][0] == "digit_3" for r in results) > 100
    for r in results:
        assert len(r["class_ids"]) == 2
        assert 1.00001 >= sum(r["scores"]) >= r["scores"][0] >= r["scores"][1]


def test_strict_checkpoints(config, trained):
    for mode in ("eval", "infer"):
        with pytest.raises(ConfigError, match=r"Global\.pretrained_model: missing"):
            Engine(config, build_small, mode)
    state = read_file(trained + ".pdparams")
    state.pop("attention.fc1.bias")
    path = config["Global"]["output_dir"] + "/less"
    save_file(state, path + ".pdparams")
    config["Global"]["pretrained_model"] = path
    with pytest.raises(ValueError, match=r"1 missing \(attention.fc1.bias\)"):
        Engine(config, build_small, "eval")


def test_bad_images_are_named(config, trained, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    config["Global"]["pretrained_model"] = trained
    config["Infer"]["infer_imgs"] = str(tmp_path)
    with pytest.raises(ValueError, match=r"bad\.png: not an image"):
        Engine(config, build_small, "infer").infer()
    (tmp_path / "list.txt").write_text("bad.png 1\n")
    config["DataLoader"]["Eval"]["dataset"].update(
        image_root=str(tmp_path), cls_label_path=str(tmp_path / "list.txt")
    )
    with pytest.raises(ValueError, match=r"bad\.png: not an image"):
        Engine(config, build_small, "eval").evaluate()


# --- what cannot be honoured is an error -------------------------------------------------

TREE = "--paddleclas DIR"
BAD = [
    ("Global.epochz", 3, "Global.epochz: key 'epochz' .* did you mean 'epochs'.*" + TREE),
    ("Global.epochs", 0, "Global.epochs: must be at least 1, but got 0"),
    ("Global.epochs", "3", "Global.epochs: must be an integer, but got '3'"),
    ("Global.device", "xpu", "Global.device: 'xpu' is not supported .*'cpu', 'gpu'"),
    ("Global.device", "gpu", "Global.device: 'gpu', but this Paddle is built for CPU"),
    ("Global.use_dali", True, "Global.use_dali: True is not supported .*" + TREE),
    ("Global.eval_mode", "retrieval", "Global.eval_mode: 'retrieval' is not supported"),
    ("Global.seed", 1.5, "Global.seed: must be an integer, but got 1.5"),
    ("Slim", {"prune": {}}, "Slim: key 'Slim' is not supported .*" + TREE),
    ("AMP", {"use_amp": True, "level": "O3"}, "AMP.level: 'O3'"),
    ("AMP", {"use_promote": True}, "AMP.use_promote: True"),
    ("Loss.Train", [{"CELos": {"weight": 1}}], "Loss.Train.0: 'CELos' .* did you mean 'CELoss'"),
    ("Loss.Train", [{"CELoss": {}}], "Loss.Train.0.CELoss: argument 'weight' is missing"),
    ("Loss.Train", [{"CELoss": {"weight": 1, "eps": 1}}], "Loss.Train.0.CELoss.eps"),
    ("Loss.Train", [], r"Loss.Train: must be a list of losses, but got \[\]"),
    ("Optimizer.name", "Lamb", "Optimizer: 'Lamb' is not supported"),
    ("Optimizer.momentun", 0.9, "Optimizer.Momentum.momentun: .*did you mean 'momentum'"),
    ("Optimizer.clip_grad", 5, "Optimizer.Momentum.clip_grad"),
    ("Optimizer.weight_decay", 0.1, "one of regularizer and weight_decay"),
    (
        "Optimizer.lr.warmup_start_lr",
        0.1,
        r"Optimizer\.lr\.Cosine: warmup_start_lr must be less .* 0\.1 .* but got 0\.1",
    ),
    ("Optimizer.lr", 0.1, "Optimizer.lr: must be a dict with a 'name', but got 0.1"),
    ("Optimizer.lr.name", "Cosin", "Optimizer.lr: 'Cosin' .* did you mean 'Cosine'"),
    ("Optimizer.lr.eta_max", 1, "Optimizer.lr.Cosine.eta_max"),
    ("Optimizer", [{"SGD": {"scope": "all"}}], "Optimizer: a list of optimizers is not supported"),
    ("DataLoader.Train.dataset.name", "LogoDataset", "DataLoader.Train.dataset: 'LogoDataset'"),
    ("DataLoader.Train.dataset.image_root", "/no", "image_root '/no' does not exist"),
    ("DataLoader.Train.dataset.cls_label_path", "/no", "cls_label_path '/no' does not exist"),
    ("DataLoader.Train.dataset.transform_ops", [{"GridMask": None}], "transform_ops.0: 'GridMask'"),
    (
        "DataLoader.Train.dataset.transform_ops",
        [{"CropImage": None}],
        "CropImage: argument 'size' is missing",
    ),
    ("DataLoader.Train.dataset.transform_ops", [{"CropImage": {"size": 0}}], "positive integer.*got 0"),
    ("DataLoader.Train.dataset.transform_ops", None, "must be a list of operators, but got None"),
    (
        "DataLoader.Train.dataset.transform_ops",
        [{"ResizeImage": {"size": 8, "interpolation": "cubic"}}],
        "interpolation must be one of .* but got 'cubic'",
    ),
    (
        "DataLoader.Train.dataset.transform_ops",
        [{"NormalizeImage": {"scale": "__import__('os')"}}],
        "a number or a quotient",
    ),
    (
        "DataLoader.Train.dataset.batch_transform_ops",
        [{"OpSampler": {"FmixOperator": {"prob": 1}}}],
        "batch_transform_ops.0.OpSampler: 'FmixOperator'",
    ),
    (
        "DataLoader.Train.dataset.batch_transform_ops",
        [{"OpSampler": {"MixupOperator": {"alpha": 1}}}],
        "argument 'prob' is missing",
    ),
    ("DataLoader.Eval.dataset.batch_transform_ops", [{"MixupOperator": None}], "mixing outside training"),
    ("DataLoader.Train.sampler.name", "RASampler", "DataLoader.Train.sampler: 'RASampler'"),
    ("DataLoader.Train.sampler.batch_size", 500, "96 images give no batch of 500"),
    ("DataLoader.Train.loader.prefetch", 2, "DataLoader.Train.loader.prefetch"),
    ("DataLoader.Train.loader", None, "DataLoader.Train.loader: must be a dict, but got None"),
    ("DataLoader.Eval", None, "DataLoader.Eval: missing, but needed to evaluate"),
    ("DataLoader.Gallery", {}, "DataLoader.Gallery: key 'Gallery'"),
    ("Metric.Eval", [{"Recallk": {"topk": 1}}], "Metric.Eval.0: 'Recallk'"),
    ("Metric.Eval", [{"TopkAcc": {"topk": 0}}], "topk must be positive integers, but got 0"),
    ("Metric.Train", [{"TprAtFpr": {}}], "Metric.Train.0: TprAtFpr needs the whole data set"),
    ("Metric.Eval", [{"TprAtFpr": {"max_fpr": 2}}], "Metric.Eval.0.TprAtFpr.max_fpr: must be at most 1"),
    (
        "Metric.Eval",
        [{"ATTRMetric": {}}],
        "Metric.Eval.0: ATTRMetric takes several classes an image; set Global.use",
    ),
    ("Loss.Train", [{"MultiLabelLoss": {"weight": 1}}], "Loss.Train.0: MultiLabelLoss takes several classes"),
    (
        "Global.use_multilabel",
        True,
        "ImageNetDataset takes one class an image, but Global.use_multilabel is True",
    ),
    (
        "DataLoader.Train.dataset.name",
        "MultiLabelDataset",
        "MultiLabelDataset takes several classes an image",
    ),
    ("Optimizer.lr.last_epoch", 5, "last_epoch must be -1, but got 5"),
    ("Metric.Eval", None, "Metric.Eval: needs a metric such as TopkAcc"),
    ("Arch", None, "Arch: missing, but needed to train"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[f"{p}={v}"[:60] for p, v, _ in BAD])
def test_mistakes_end_before_training(config, path, value, message):
    put(config, path, value)
    with pytest.raises(ConfigError, match=message):
        Engine(config, build_small, "train")


def test_supported_values_pass(config):
    for mode in ("train", "eval", "infer", "export", "predict"):
        check_config(config, mode)


# --- parts against formulas --------------------------------------------------------------


def half_cosine(step, steps, peak, low=0.0):
    return low + (peak - low) * (1 + math.cos(math.pi * step / steps)) / 2


# the YAML's lr section, the expected rate at a step of 10 epochs of 5 steps
SCHEDULES = [
    ({"name": "Cosine", "learning_rate": 0.4}, lambda t: half_cosine(t, 50, 0.4)),
    ({"name": "Cosine", "learning_rate": 0.4, "eta_min": 0.1}, lambda t: half_cosine(t, 50, 0.4, 0.1)),
    (
        {"name": "Cosine", "learning_rate": 0.4, "warmup_epoch": 2, "warmup_start_lr": 0.1},
        lambda t: 0.1 + 0.3 * t / 10 if t < 10 else half_cosine(t - 10, 40, 0.4),
    ),
    (
        {"name": "Piecewise", "decay_epochs": [3, 6], "values": [1.0, 0.1, 0.01]},
        lambda t: [1.0, 0.1, 0.01][(t >= 15) + (t >= 30)],
    ),
    ({"name": "Step", "learning_rate": 1.0, "step_size": 2.4, "gamma": 0.5}, lambda t: 0.5 ** (t // 12)),
    ({"name": "Linear", "learning_rate": 1.0, "end_lr": 0.2}, lambda t: 1 - 0.8 * min(t, 50) / 50),
    (
        {"name": "Linear", "learning_rate": 1.0, "power": 2.0, "warmup_epoch": 1},
        lambda t: t / 5 if t < 5 else (1 - (t - 5) / 45) ** 2,
    ),
    ({"name": "ConstLR", "learning_rate": 0.3, "warmup_epoch": 1}, lambda t: 0.3 * min(t / 5, 1)),
    # nothing follows the warm-up
    ({"name": "Cosine", "learning_rate": 0.4, "warmup_epoch": 10}, lambda t: 0.4 * t / 50),
    ({"name": "Linear", "learning_rate": 0.4, "warmup_epoch": 12}, lambda t: 0.4 * t / 50),
]


@pytest.mark.parametrize(("section", "expected"), SCHEDULES, ids=[str(s) for s, _ in SCHEDULES])
@pytest.mark.parametrize("by_epoch", [False, True])
def test_schedules(section, expected, by_epoch):
    options = {"name": "SGD", "lr": {**section, "by_epoch": by_epoch}}
    _, schedule = build_optimizer({"Optimizer": options}, nn.Linear(1, 1), 10, 5)
    assert schedule.by_epoch is by_epoch
    for step in range(10 if by_epoch else 50):
        t = step * 5 if by_epoch else step
        whole_epochs = by_epoch and section["name"] == "Step"  # a step_size of 2.4 epochs is then 2
        want = 0.5 ** (step // 2) if whole_epochs else expected(t)
        assert abs(schedule.last_lr - want) < 1e-9, step
        schedule.step()


def momentum(w, g, state, lr, t):
    g = g + 0.1 * w
    state["v"] = 0.9 * state.get("v", 0) + g
    return w - lr * state["v"]


def nesterov(w, g, state, lr, t):
    state["v"] = 0.9 * state.get("v", 0) + g
    return w - lr * (g + 0.9 * state["v"])


def sgd(w, g, state, lr, t):
    return w - lr * (g + 0.1 * w)


def rmsprop(w, g, state, lr, t):
    state["r"] = 0.95 * state.get("r", 0) + 0.05 * g * g
    state["v"] = 0.9 * state.get("v", 0) + lr * g / np.sqrt(state["r"] + 1e-6)
    return w - state["v"]


def adamw(w, g, state, lr, t):
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["r"] = 0.999 * state.get("r", 0) + 0.001 * g * g
    step = state["m"] / (1 - 0.9**t) / (np.sqrt(state["r"] / (1 - 0.999**t)) + 1e-8)
    return w - lr * 0.1 * w - lr * step


def clipped(w, g, state, lr, t):
    return w - lr * g * min(1, 0.01 / np.linalg.norm(g))


OPTIMIZERS = [
    ({"name": "Momentum", "momentum": 0.9, "regularizer": {"name": "L2", "coeff": 0.1}}, momentum),
    ({"name": "Momentum", "use_nesterov": True}, nesterov),
    ({"name": "SGD", "weight_decay": 0.1}, sgd),
    ({"name": "SGD", "clip_norm": 0.01}, clipped),
    ({"name": "RMSProp", "momentum": 0.9, "rho": 0.95, "epsilon": 1e-6}, rmsprop),
    ({"name": "AdamW", "weight_decay": 0.1, "one_dim_param_no_weight_decay": True}, adamw),
]


@pytest.mark.parametrize(("section", "update"), OPTIMIZERS, ids=[str(s) for s, _ in OPTIMIZERS])
def test_optimizers(section, update):
    network = nn.Linear(4, 3)
    section = {**section, "lr": {"name": "ConstLR", "learning_rate": 0.05}}
    optimizer, _ = build_optimizer({"Optimizer": section}, network, 1, 5)
    random = np.random.RandomState(0)
    weight, state = network.weight.numpy().astype("float64"), {}
    for t in range(1, 5):
        x = paddle.to_tensor(random.standard_normal([5, 4]).astype("float32"))
        (network(x) ** 2).mean().backward()
        gradient = network.weight.grad.numpy().astype("float64")
        optimizer.step()
        optimizer.clear_grad()
        weight = update(weight, gradient, state, 0.05, t)
        np.testing.assert_allclose(network.weight.numpy(), weight, rtol=1e-4, atol=1e-6)
        weight = network.weight.numpy().astype("float64")


@pytest.mark.parametrize("name", ["Momentum", "RMSProp", "AdamW"])
def test_no_weight_decay(name):
    """Named and one-dimensional parameters keep their value when there is no gradient."""
    network = Small()
    options = {"no_weight_decay_name": "conv2", "one_dim_param_no_weight_decay": True}
    section = {"name": name, "weight_decay": 0.5, "lr": {"name": "ConstLR", "learning_rate": 0.1}, **options}
    optimizer, _ = build_optimizer({"Optimizer": section}, network, 1, 5)
    network.eval()  # keeps the running statistics
    before = {k: v.numpy() for k, v in network.named_parameters()}
    (network(paddle.zeros([2, 3, 8, 8])).sum() * 0).backward()
    optimizer.step()
    changed = {k for k, v in network.named_parameters() if not np.array_equal(v.numpy(), before[k])}
    assert changed == {"conv1.weight", "attention.fc1.weight", "attention.fc2.weight", "fc.weight"}


def test_losses():
    random = np.random.RandomState(0)
    logits = random.standard_normal([6, 4])
    label = random.randint(0, 4, [6])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    one_hot = np.eye(4)[label]
    soft = random.dirichlet(np.ones(4), 6)
    softened = np.exp(soft) / np.exp(soft).sum(1, keepdims=True)

    def entropy(target):
        return -(target * log_p).sum(1).mean()

    x = paddle.to_tensor(logits.astype("float32"))
    hard, mixed = paddle.to_tensor(label).unsqueeze(1), paddle.to_tensor(soft.astype("float32"))
    smooth = 0.9 * one_hot + 0.1 / 4
    for got, expected in [
        (CELoss()(x, hard), entropy(one_hot)),
        (CELoss(epsilon=0.1)(x, hard), entropy(smooth)),
        (CELoss(epsilon=0.1)(x, mixed), entropy(0.9 * soft + 0.1 / 4)),
        (CELoss()(x, mixed), entropy(softened)),
        (MixCELoss()(x, mixed), entropy(soft)),
        (MixCELoss()(x, hard), entropy(one_hot)),
        (CELoss(reduction="sum")(x, hard), 6 * entropy(one_hot)),
    ]:
        assert abs(float(got) - expected) < 1e-6
    parts = CombinedLoss(
        [{"CELoss": {"weight": 2.0}}, {"MixCELoss": {"weight": 0.5, "epsilon": 0.1}}], "Loss.Train"
    )(x, hard)
    assert abs(float(parts["loss"]) - 2 * entropy(one_hot) - 0.5 * entropy(smooth)) < 1e-6


def test_meters_weigh_by_samples():
    meters = Meters({"train": None, "eval": None}, {"train": [], "eval": [TopkAcc([1, 3, 9])]})
    meters.mode = "eval"
    right = 0
    for n in (5, 2):
        logits = np.random.RandomState(n).standard_normal([n, 4]).astype("float32")
        label = np.arange(n) % 4
        values = meters.compute(paddle.to_tensor(logits), paddle.to_tensor(label))
        meters.update(*[v.numpy() for v in values])
        right += (logits.argmax(1) == label).sum()
    assert meters.averages()["top1"] == right / 7
    assert meters.averages()["top9"] == 1
    meters.reset()
    assert meters.averages() == {}


def test_half_precision_checkpoints_load(tmp_path):
    network = Small()
    state = {k: v.astype("float16") for k, v in network.state_dict().items()}
    save_file(state, str(tmp_path / "half.pdparams"))
    load_weights(network, str(tmp_path / "half"))
    assert network.fc.weight.dtype == paddle.float32
    assert np.array_equal(network.fc.weight.numpy(), state["fc.weight"].astype("float32").numpy())


def test_best_model_of_an_average(config, tmp_path):
    """With EMA the checkpoint holds the average, so the average's accuracy decides."""
    config["EMA"] = {"decay": 0.9}
    engine = train(config)
    config["Global"]["pretrained_model"] = str(tmp_path / "best_model")
    assert Engine(config, build_small, "eval").evaluate()["top1"] == engine.best["metric"]


def test_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = str(tmp_path / "a.pdparams")
    save_file({"a": paddle.ones([2])}, path)
    save = paddle.save

    def fail(value, target):
        save(value, target)
        with open(target, "r+b") as file:
            file.truncate(10)
        raise OSError("No space left on device")

    monkeypatch.setattr(paddle, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_file({"a": paddle.zeros([2])}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pdparams"]
    assert read_file(path)["a"].numpy().tolist() == [1, 1]


def test_worker_randomness(config, tmp_path):
    """Loading processes draw other numbers in every epoch, the same in every run of one seed.

    They are forked, which is safe from a fresh process, not from one full of other tests' threads.
    """
    config["DataLoader"]["Train"]["loader"]["num_workers"] = 2
    config["DataLoader"]["Train"]["sampler"]["shuffle"] = False
    erase = {"RandomErasing": {"EPSILON": 1.0, "mode": "pixel"}}
    config["DataLoader"]["Train"]["dataset"]["transform_ops"] += [erase]
    script = """
import json, sys
import numpy as np
import paddle
from paddle_attention.engine import Engine
from paddle_attention.engine.workers import start_worker

config = json.loads(sys.argv[1])
loader = Engine(config, lambda config, mode: paddle.nn.Conv2D(3, 10, 8), "train").train_loader
np.save(sys.argv[2], [np.concatenate([batch[0].numpy() for batch in loader]) for _ in range(2)])
import cv2
loader.close()
start_worker()  # as each process does when it starts: OpenCV's threads do not survive a fork
assert cv2.getNumThreads() <= 1
"""
    runs = []
    for number in range(2):
        path = str(tmp_path / f"{number}.npy")
        command = [sys.executable, "-c", script, json.dumps(config), path]
        subprocess.run(command, check=True, timeout=200, cwd=Path(__file__).parents[1])
        runs.append(np.load(path))
    first, second = runs[0]
    assert not np.array_equal(first, second)
    assert np.array_equal(runs[0], runs[1])


# --- fine-tuning ---------------------------------------------------------------------------


def weights_of(path):
    return {k: v.numpy() for k, v in read_file(str(path)).items()}


OWN = ("attention.", "fc.")


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "Momentum", "momentum": 0.9, "regularizer": {"name": "L2", "coeff": 0.01}},
        {"name": "AdamW", "weight_decay": 0.1},
    ],
    ids=["Momentum", "AdamW"],
)
def test_frozen_backbone(config, tmp_path, log, optimizer):
    """In the first epochs neither weights, momentum, decay nor statistics of the backbone move."""
    config["Optimizer"] = {**optimizer, "lr": {"name": "ConstLR", "learning_rate": 0.01}}
    config["Global"].update(freeze_backbone_epochs=2, save_interval=1, epochs=3)
    engine = Engine(config, build_small, "train")
    start = {k: v.numpy() for k, v in engine.network.state_dict().items()}
    engine.train()
    frozen, free = (weights_of(tmp_path / f"epoch_{n}.pdparams") for n in (2, 3))
    for key, value in start.items():
        assert np.array_equal(frozen[key], value) == (not key.startswith(OWN)), key
        assert not np.array_equal(free[key], frozen[key]), key
    moved = read_file(str(tmp_path / "epoch_2.pdopt"))
    names = {p.name for n, p in engine.network.named_parameters() if not n.startswith(OWN)}
    for key, value in moved.items():
        if any(key.startswith(name) for name in names) and ("velocity" in key or "moment" in key):
            assert not np.any(value.numpy()), key
    assert [line for line in log if line.startswith("backbone")] == [
        "backbone frozen for 2 epochs: 6 parameters",
        "backbone trains from now on",
    ]
    assert all(not p.stop_gradient for p in engine.network.parameters() if p.trainable)
    assert engine.network.bn._use_global_stats is None


def test_freezing_continues_where_it_was(config, tmp_path):
    config["Global"].update(freeze_backbone_epochs=3, save_interval=1, epochs=2)
    train(copy.deepcopy(config))
    config["Global"].update(epochs=4, checkpoints=str(tmp_path / "latest"))
    train(config)
    second, third, fourth = (weights_of(tmp_path / f"epoch_{n}.pdparams") for n in (2, 3, 4))
    assert np.array_equal(second["conv1.weight"], third["conv1.weight"])
    assert not np.array_equal(second["fc.weight"], third["fc.weight"])
    assert not np.array_equal(third["conv1.weight"], fourth["conv1.weight"])


def test_freezing_with_accumulation_and_without_end(config, tmp_path):
    config["Global"].update(freeze_backbone_epochs=9, update_freq=2, epochs=2)
    engine = Engine(config, build_small, "train")
    start = engine.network.conv1.weight.numpy()
    fc = engine.network.fc.weight.numpy()
    engine.train()
    assert np.array_equal(engine.network.conv1.weight.numpy(), start)
    assert not np.array_equal(engine.network.fc.weight.numpy(), fc)
    assert engine.network.bn._use_global_stats is None


@pytest.mark.parametrize("name", ["SGD", "Momentum", "RMSProp", "Adam", "AdamW"])
def test_attention_learns_at_its_own_rate(arch, name):
    """``Arch.attention_lr_mult`` scales the first update of the attention, and of nothing else."""
    from paddle_attention import ppcls

    config = {"Optimizer": {"name": name, "lr": {"name": "ConstLR", "learning_rate": 0.01}}}
    steps = []
    for factor in (1.0, 4.0):
        paddle.seed(0)
        section = {"name": "SE_ResNet18", "class_num": 3, "attention_lr_mult": factor}
        network = ppcls.build_network({"Arch": section})
        optimizer, _ = build_optimizer(config, network, 1, 10)
        before = {n: p.numpy() for n, p in network.named_parameters()}
        network(paddle.randn([4, 3, 32, 32])).square().sum().backward()
        optimizer.step()
        steps.append({n: p.numpy() - before[n] for n, p in network.named_parameters()})
    for key in ("blocks.2.conv1.attention.fc2.weight", "blocks.2.conv1.conv.weight", "fc.weight"):
        ratio = np.linalg.norm(steps[1][key]) / np.linalg.norm(steps[0][key])
        assert abs(ratio - (4.0 if "attention" in key else 1.0)) < 0.02, key


def test_the_network_is_built_before_data_is_read(config):
    """So that a mistake in the YAML's Arch is found first."""
    config["DataLoader"]["Train"]["dataset"]["cls_label_path"] = "nowhere.txt"

    def build(config, mode):
        raise ValueError("Arch: wrong")

    with pytest.raises(ValueError, match="Arch: wrong"):
        Engine(config, build, "train")
