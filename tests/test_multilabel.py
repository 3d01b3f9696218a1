"""Images of several classes, and metrics of whole data sets: against PaddleClas, by formula, and on the digits."""

import copy
import importlib
import json
import os
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddleclas_home import ENVIRONMENT, HOME, OLD, needs_paddleclas

from paddle_attention.config import ConfigError, DataError
from paddle_attention.engine import Engine
from paddle_attention.engine.datasets import MultiLabelDataset
from paddle_attention.engine.losses import LOSSES, MultiLabelAsymmetricLoss, MultiLabelLoss
from paddle_attention.engine.metrics import Meters
from paddle_attention.engine.scores import METRICS, BatchMetric, MultiLabelMAP, TprAtFpr
from paddle_attention.preprocess import POSTPROCESSES, probabilities

needs_tree = pytest.mark.skipif(
    not HOME or any(mark.args[0] for mark in needs_paddleclas), reason="needs a PaddleClas source tree"
)
FIRST, SECOND = 23, 14  # images of two batches
CLASSES = 5

# class, arguments, and whether the labels come with the classes' frequencies
SAME_LOSSES = [
    ("MultiLabelLoss", {}, False),
    ("MultiLabelLoss", {}, True),
    ("MultiLabelLoss", {"epsilon": 0.1}, False),
    ("MultiLabelLoss", {"size_sum": True}, False),
    ("MultiLabelLoss", {"size_sum": True, "weight_ratio": True}, True),
    ("MultiLabelLoss", {"epsilon": 0.1, "weight_ratio": True}, True),
    ("MultiLabelAsymmetricLoss", {}, False),
    ("MultiLabelAsymmetricLoss", {"gamma_pos": 0, "disable_focal_loss_grad": False}, False),
    ("MultiLabelAsymmetricLoss", {"clip": 0, "reduction": "mean"}, False),
]
SAME_METRICS = [
    ("HammingDistance", {}, False),
    ("AccuracyScore", {}, False),
    ("AccuracyScore", {"base": "sample"}, False),
    ("ATTRMetric", {}, True),
    ("MultiLabelMAP", {}, False),
    ("MultiLabelMAP", {"map_type": "11point"}, False),
    ("TprAtFpr", {}, None),
    ("TprAtFpr", {"max_fpr": 0.2}, None),
]
SAME_RESULTS = [
    ("MultiLabelThreshOutput", {}),
    ("MultiLabelThreshOutput", {"threshold": 0.7}),
    ("ThreshOutput", {"threshold": 0.6, "label_0": "no", "label_1": "yes"}),
]


def arrays(ratio, seed=0):
    """``(logits, labels)`` of both batches; ``ratio`` None for labels of one class."""
    random = np.random.RandomState(seed)
    logits = [random.standard_normal([n, CLASSES]).astype("float32") * 2 for n in (FIRST, SECOND)]
    if ratio is None:
        return logits, [random.randint(0, 2, [n, 1]) for n in (FIRST, SECOND)]
    labels = [random.randint(0, 2, [n, CLASSES]).astype("float32") for n in (FIRST, SECOND)]
    if ratio:
        share = np.concatenate(labels).mean(0)
        labels = [np.stack([label, np.broadcast_to(share, label.shape)], 1) for label in labels]
    return logits, labels


def evaluate(name, arguments, logits, labels):
    """The first value of a metric through the meters, as an evaluation gets it."""
    meters = Meters({"train": None, "eval": None}, {"train": [], "eval": [METRICS[name](**arguments)]})
    meters.mode = "eval"
    for x, y in zip(logits, labels, strict=True):
        meters.update(*(v.numpy() for v in meters.compute(paddle.to_tensor(x), paddle.to_tensor(y))))
    collected, averages = meters.collected, meters.averages()
    meters.reset()
    return {**averages, **meters.set_results(collected)}


def compare_with_paddleclas():
    """In a process of its own: a line of JSON with both numbers for every item of the tables."""
    from paddle_attention import ppcls

    ppcls.register(HOME)
    for kind, table in (("loss", SAME_LOSSES), ("metric", SAME_METRICS)):
        theirs = importlib.import_module(f"ppcls.{kind}")
        for name, arguments, ratio in table:
            if not hasattr(theirs, name):
                continue
            if OLD and (kind == "metric" or ratio):  # it has no averages, and no labels with frequencies
                continue
            try:
                values = globals()[f"_both_{kind}"](
                    getattr(theirs, name)(**arguments), name, arguments, ratio
                )
            except TypeError as error:
                if "unexpected keyword" in str(error):
                    continue
                raise
            print(json.dumps([kind, f"{name} {arguments}", *values]))
    theirs = None if OLD else importlib.import_module("ppcls.data.postprocess.threshoutput")
    for name, arguments in SAME_RESULTS:
        if hasattr(theirs, name):
            print(json.dumps(["results", f"{name} {arguments}", *_both_results(theirs, name, arguments)]))


def _both_loss(theirs, name, arguments, ratio):
    """Loss and gradient of both."""
    (logits, _), (labels, _) = arrays(ratio)
    found = []
    for loss in (LOSSES[name](**arguments), theirs):
        x = paddle.to_tensor(logits, stop_gradient=False)
        value = loss(x, paddle.to_tensor(labels))
        value = value[name] if isinstance(value, dict) else value
        value.backward()
        found.append([float(value), *x.grad.numpy().ravel().tolist()])
    return found


def _both_metric(theirs, name, arguments, ratio):
    logits, labels = arrays(ratio)
    if hasattr(theirs, "reset"):
        theirs.reset()
    for x, y in zip(logits, labels, strict=True):
        theirs(paddle.to_tensor(x), paddle.to_tensor(y))
    if name == "ATTRMetric":
        expected = [float(v) for v in theirs.attrmeter.res()]
    else:
        _ = theirs.avg_info  # some compute only now
        expected = [float(theirs.avg)]
    return list(evaluate(name, arguments, logits, labels).values()), expected


def _both_results(theirs, name, arguments):
    (logits, _), _ = arrays(None)
    logits = logits[:, :2]
    names = [f"{i}.jpg" for i in range(len(logits))]
    ours = POSTPROCESSES[name](**arguments)
    got = ours(probabilities(logits, ours.multilabel), names)
    expected = getattr(theirs, name)(**arguments)(paddle.to_tensor(logits), names)
    for result in expected:
        result["scores"] = [round(float(score), 5) for score in result["scores"]]
        if not ours.names:
            result.pop("label_names")
    return got, expected


@needs_tree
def test_equal_to_paddleclas(workspace):
    code = "import test_multilabel; test_multilabel.compare_with_paddleclas()"
    path = os.pathsep.join([workspace.environment["PYTHONPATH"], str(Path(__file__).parent)])
    done = workspace.run("-c", code, PADDLECLAS_HOME=HOME, PYTHONPATH=path, **ENVIRONMENT)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) >= (2 if OLD else len(SAME_LOSSES + SAME_METRICS + SAME_RESULTS))
    for kind, what, got, expected in lines:
        if kind == "results":
            for ours, theirs in zip(got, expected, strict=True):
                np.testing.assert_allclose(ours.pop("scores"), theirs.pop("scores"), atol=2e-5)
                assert ours == theirs, what
        else:
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6, err_msg=what)


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype("float64")))


def test_losses():
    (x, _), (y, _) = arrays(False)
    p, share = sigmoid(x), np.broadcast_to(y.mean(0), y.shape)
    logits, label = paddle.to_tensor(x), paddle.to_tensor(y)
    with_share = paddle.to_tensor(np.stack([y, share], 1).astype("float32"))

    def entropy(target):
        return -(target * np.log(p) + (1 - target) * np.log(1 - p))

    weights = np.exp(np.where(y > 0.5, 1 - share, share))
    for loss, target, expected in [
        (MultiLabelLoss(), label, entropy(y).mean()),
        (MultiLabelLoss(epsilon=0.2), label, entropy(0.8 * y + 0.2 / CLASSES).mean()),
        (MultiLabelLoss(size_sum=True), label, entropy(y).sum(1).mean()),
        (MultiLabelLoss(weight_ratio=True), with_share, (entropy(y) * weights).mean()),
        (MultiLabelAsymmetricLoss(0, 0, 0), label, entropy(y).sum()),
        (MultiLabelAsymmetricLoss(0, 2, 0, reduction="mean"), label,
         (entropy(y) * np.where(y > 0.5, 1, p**2)).mean()),
    ]:  # fmt: skip
        assert abs(float(loss(logits, target)) - expected) < 1e-5 * max(1, expected)
    with pytest.raises(ConfigError, match="weight_ratio: True, which takes the classes' frequencies"):
        MultiLabelLoss(weight_ratio=True)(logits, label)


def test_metrics():
    from sklearn.metrics import average_precision_score

    logits, labels = arrays(False)
    x, y = np.concatenate(logits), np.concatenate(labels)
    decided = x > 0
    (hamming,) = evaluate("HammingDistance", {}, logits, labels).values()
    assert abs(hamming - (decided != y).mean()) < 1e-6
    (whole,) = evaluate("AccuracyScore", {"base": "sample"}, logits, labels).values()
    assert abs(whole - (decided == y).all(1).mean()) < 1e-6
    (average,) = evaluate("MultiLabelMAP", {}, logits, labels).values()
    assert abs(average - np.mean([average_precision_score(y[:, c], x[:, c]) for c in range(CLASSES)])) < 1e-6
    attributes = evaluate("ATTRMetric", {}, logits, labels)
    over = x > 0.5
    recall = (over & (y == 1)).sum(0) / (y == 1).sum(0)
    rejected = (~over & (y == 0)).sum(0) / (y == 0).sum(0)
    assert abs(attributes["ma"] - ((recall + rejected) / 2).mean()) < 1e-9
    assert next(iter(attributes)) == "ma"  # which decides the best model
    assert MultiLabelMAP().results(x, np.zeros_like(y)) == {"MultiLabelMAP": 0.0}


def test_rates_at_a_threshold():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.4])
    logits = np.stack([np.zeros(5), np.log(scores / (1 - scores))], 1).astype("float32")
    labels = np.array([1, 0, 1, 1, 0])
    for allowed, expected in ((0, 1 / 3), (0.49, 1 / 3), (0.5, 1.0), (1, 1.0)):
        assert TprAtFpr(allowed).results(logits, labels) == {"tpr": pytest.approx(expected)}
    assert TprAtFpr().results(logits[:1], labels[:1]) == {"tpr": 1.0}  # no negatives
    assert TprAtFpr().results(logits[1:2], labels[1:2]) == {"tpr": 0.0}  # no positives
    # Above a threshold, not at it: 0.5 is above 0.4999, as the negative is.
    close = np.array([[0.0, 0.0], [0.0, np.log(0.49995 / 0.50005)]], "float32")
    assert TprAtFpr(0).results(close, np.array([1, 0])) == {"tpr": 0.0}
    with pytest.raises(ConfigError, match="needs two classes, but the network has 1"):
        TprAtFpr().results(logits[:, :1], labels)


@pytest.fixture(scope="module")
def base(workspace):
    """The digits as images of three classes: odd, at least five, with a hole."""
    import yaml

    root = workspace.path / "dataset" / "digits"
    for part, n in (("train", 160), ("test", 60)):
        lines = []
        for line in (root / f"{part}_list.txt").read_text().splitlines()[:n]:
            path, _, label = line.rpartition(" ")
            digit = int(label)
            lines.append(f"{path}\t{digit % 2},{int(digit >= 5)},{int(digit in (0, 6, 8, 9))}")
        (root / f"{part}_several.txt").write_text("\n".join(lines))
    (root / "classes.txt").write_text("0 odd\n1 large\n2 hole\n")
    operators = [
        {"DecodeImage": {"to_rgb": True, "channel_first": False}},
        {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}},
    ]

    def part(name, training):
        return {
            "dataset": {
                "name": "MultiLabelDataset",
                "image_root": str(root),
                "cls_label_path": str(root / f"{name}_several.txt"),
                "label_ratio": True,
                "transform_ops": operators,
            },
            "sampler": {
                "name": "DistributedBatchSampler",
                "batch_size": 16,
                "drop_last": training,
                "shuffle": training,
            },
            "loader": {"num_workers": 0},
        }

    loss = [{"MultiLabelLoss": {"weight": 1.0, "weight_ratio": True, "size_sum": True}}]
    config = {
        "Global": {
            "device": "cpu",
            "epochs": 6,
            "image_shape": [3, 8, 8],
            "seed": 1,
            "use_multilabel": True,
            "print_batch_step": 10,
        },
        "Arch": {"name": "Plain", "class_num": 3},
        "Loss": {"Train": loss, "Eval": loss},
        "Optimizer": {"name": "Adam", "lr": {"name": "Constant", "learning_rate": 0.01}},
        "DataLoader": {"Train": part("train", True), "Eval": part("test", False)},
        "Infer": {
            "infer_imgs": str(root / "8"),
            "batch_size": 5,
            "transforms": [*operators, {"ToCHWImage": None}],
            "PostProcess": {
                "name": "MultiLabelThreshOutput",
                "threshold": 0.5,
                "class_id_map_file": str(root / "classes.txt"),
            },
        },
        "Metric": {
            "Train": [{"AccuracyScore": None}],
            "Eval": [
                {"AccuracyScore": None},
                {"HammingDistance": None},
                {"ATTRMetric": None},
                {"MultiLabelMAP": None},
            ],
        },
    }
    return yaml.safe_load(yaml.safe_dump(config))


def build(config, mode):
    from paddle import nn

    paddle.seed(0)
    return nn.Sequential(
        nn.Conv2D(3, 16, 3, padding=1), nn.BatchNorm2D(16), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 3)
    )


def test_training_evaluation_and_inference(base, tmp_path, log_lines):
    config = copy.deepcopy(base)
    config["Global"]["output_dir"] = str(tmp_path)
    engine = Engine(config, build, "train")
    best = engine.train()
    assert best > 0.8  # chance: about 0.55
    results = engine.evaluation.results
    assert results["AccuracyScore"] == pytest.approx(1 - results["HammingDistance"], abs=1e-6)
    assert {"MultiLabelLoss", "ma", "instance_f1", "MultiLabelMAP"} <= set(results)
    averages = [line for line in log_lines if "[Avg]" in line]
    assert "AccuracyScore: " in averages[0]
    assert any("ma: " in line and "MultiLabelMAP: " in line for line in averages)

    config["Global"]["pretrained_model"] = str(tmp_path / "best_model")
    config["Arch"].pop("class_num")  # the network's output shows it
    evaluated = Engine(config, build, "eval").evaluate()
    assert evaluated["AccuracyScore"] == pytest.approx(best)
    found = Engine(config, build, "infer").infer()
    assert {name for result in found for name in result["label_names"]} <= {"odd", "large", "hole"}
    right = sum("hole" in r["label_names"] and "large" in r["label_names"] for r in found)
    assert right > len(found) / 2
    assert all(min(r["scores"], default=1) >= 0.5 for r in found)


BAD = [
    ("Global.use_multilabel", False, "MultiLabelDataset takes several classes an image; set Global.use_mul"),
    ("Loss.Train", [{"CELoss": {"weight": 1}}], "Loss.Train.0: CELoss takes one class an image"),
    ("Metric.Eval", [{"HammingDistance": None}], "HammingDistance is smaller for better ones; put another"),
    ("Metric.Eval", [{"TopkAcc": {}}], "TopkAcc takes one class an image, but Global.use_multilabel is True"),
    ("Metric.Eval", [{"AccuracyScore": {"base": "pixel"}}], "base must be 'label' or 'sample', but got 'pixel'"),
    ("Metric.Train", [{"MultiLabelMAP": None}], "MultiLabelMAP needs the whole data set"),
    ("DataLoader.Eval.dataset.label_ratio", False, r"Loss\.Eval\.0\.MultiLabelLoss\.weight_ratio: True.* DataLoader\.Eval"),
    ("Metric.Eval", [{"AccuracyScore": None}, {"AccuracyScore": {"base": "sample"}}], "Metric.Eval.1: there is a Acc"),
    ("DataLoader.Train.dataset.name", "ImageNetDataset", "ImageNetDataset takes one class an image"),
    ("DataLoader.Train.dataset.batch_transform_ops", [{"MixupOperator": {"alpha": 0.2}}], "mixing images with several"),
    ("Arch.class_num", 4, "3 classes, but the network has 4"),
    ("Infer.PostProcess", {"name": "Topk"}, "Topk goes with Global.use_multilabel: False, but it is True"),
    ("Infer.PostProcess.threshold", 1.5, "threshold must be a number from 0 to 1, but got 1.5"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[f"{p}={v}" for p, v, _ in BAD])
def test_mistakes(base, tmp_path, path, value, message):
    config = copy.deepcopy(base)
    config["Global"]["output_dir"] = str(tmp_path)
    node = config
    *keys, last = path.split(".")
    for key in keys:
        node = node[key]
    node[last] = value
    with pytest.raises((ConfigError, DataError), match=message):
        Engine(config, build, "train").train()


LINES = [
    ("a.png\t0,1\nb.png\t0,2\n", "list.txt:2: expected 'path<tab>0,1,0...'"),
    ("a.png\t0,1\nb.png\t0,1,1\n", "list.txt:2: 3 classes, but 2 in the lines before"),
    ("a.png 0,1\n", "list.txt:1: expected 'path<tab>0,1,0...'"),
    ("a.png\t\n", "list.txt:1: expected 'path<tab>0,1,0...'"),
]


@pytest.mark.parametrize(("text", "message"), LINES)
def test_bad_lists(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message.replace("...", r"\.\.\.")):
        MultiLabelDataset(None, str(tmp_path), str(tmp_path / "list.txt"))


def test_frequencies_beside_the_labels(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"")
    (tmp_path / "list.txt").write_text("0.png\t1,0\n1.png\t1,1\n2.png\t0,0\n3.png\t1,0\n")
    paths = str(tmp_path), str(tmp_path / "list.txt")
    np.testing.assert_array_equal(MultiLabelDataset(None, *paths).target(1), [1, 1])
    np.testing.assert_array_equal(
        MultiLabelDataset(None, *paths, label_ratio=True).target(2), [[0, 0], [0.75, 0.25]]
    )


def test_tables_agree():
    assert {name for name, *_ in SAME_LOSSES} == {n for n, cls in LOSSES.items() if cls.multilabel}
    assert {name for name, *_ in SAME_METRICS} == set(METRICS) - {"TopkAcc"}
    assert {name for name, *_ in SAME_RESULTS} == set(POSTPROCESSES) - {"Topk"}
    assert issubclass(METRICS["AccuracyScore"], BatchMetric)
