"""The one recipe that all networks are trained by, as a YAML of the library's own engine."""

import random
from collections import defaultdict
from pathlib import Path

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
BATCH, CLASSES = 64, 10


def write_subset(data, images, target):
    """A list of ``images`` training images, as many of each class, always the same ones; returns its path."""
    lines = (Path(data) / "train_list.txt").read_text(encoding="utf-8").splitlines()
    by_class = defaultdict(list)
    for line in sorted(lines):
        by_class[line.rpartition(" ")[2]].append(line)
    share = images // max(len(by_class), 1)
    if any(len(members) < share for members in by_class.values()):
        least = min(map(len, by_class.values()))
        raise ValueError(f"{data}: --images {images} is too many: one class has only {least}")
    if share < 1:
        raise ValueError(f"{data}: --images {images} is less than one of each of {len(by_class)} classes")
    chosen = [line for key in sorted(by_class) for line in random.Random(0).sample(by_class[key], share)]
    target.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")
    return target


def _loader(data, list_path, size, train):
    normalize = {"scale": "1.0/255.0", "mean": MEAN, "std": STD, "order": ""}
    crop = [{"RandomCropImage": {"size": size}}, {"RandFlipImage": {"flip_code": 1}}]
    center = [{"CropImage": {"size": size}}]
    return {
        "dataset": {
            "name": "ImageNetDataset",
            "image_root": str(data),
            "cls_label_path": str(list_path),
            "transform_ops": [
                {"DecodeImage": {"to_rgb": True, "channel_first": False}},
                *(crop if train else center),
                {"NormalizeImage": normalize},
            ],
        },
        "sampler": {
            "name": "DistributedBatchSampler",
            "batch_size": BATCH if train else 250,
            "drop_last": train,
            "shuffle": train,
        },
        "loader": {"num_workers": 0, "use_shared_memory": False},
    }


def config(plan, network, seed, output, list_path):
    """The configuration of one run."""
    data, epochs = plan["data"], plan["epochs"]
    return {
        "Global": {
            "checkpoints": "auto",
            "output_dir": str(output),
            "device": "cpu",
            "epochs": epochs,
            "save_interval": -1,
            "eval_during_train": True,
            "eval_interval": epochs,
            "print_batch_step": 50,
            "seed": seed,
        },
        "Arch": network.arch(CLASSES),
        "Loss": {"Train": [{"CELoss": {"weight": 1.0}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "Momentum",
            "momentum": 0.9,
            "lr": {"name": "Cosine", "learning_rate": 0.1, "warmup_epoch": 1},
            "regularizer": {"name": "L2", "coeff": 0.0005},
        },
        "DataLoader": {
            "Train": _loader(data, list_path, plan["size"], True),
            "Eval": _loader(data, Path(data) / "test_list.txt", plan["size"], False),
        },
        "Metric": {"Train": [{"TopkAcc": {"topk": [1]}}], "Eval": [{"TopkAcc": {"topk": [1, 5]}}]},
    }
