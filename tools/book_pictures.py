"""Draw what every mechanism attends to on photographs, for the pages of the site.

    python tools/book_pictures.py --data dataset/cifar10 --weights output/ablation/work/baseline-0/latest

For each mechanism: a trained backbone, the mechanism put into it, attention and
classifier trained for a while with the backbone frozen, then the maps of its last layers on
three test images. Mechanisms that have their picture are left out, unless they are named.
"""

import argparse
import inspect
import os
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "2")  # before Paddle is imported

import numpy as np
import paddle
from ablations.recipe import CLASSES, MEAN, STD

from paddle_attention import insert_attention, list_attentions
from paddle_attention.analysis import pictures, record_maps
from paddle_attention.checkpoint import load_checkpoint, own_parts
from paddle_attention.networks import BACKBONES
from paddle_attention.preprocess import build_transforms, photographer

ARGUMENTS = {
    "SKConv": {"groups": [1, 1]},
    "PSAModule": {"mask_h": 7, "mask_w": 7},
    "ShuffleAttention": {"groups": 8},
    "SGE": {"groups": 8},
    "FcaLayer": {"reduction": 4},
}
WIDE = {"RCCA", "DAModule"}  # they need more channels than the first stages have
REDUCTION = 4  # of 16 channels, 16 would leave one hidden channel
PHOTOGRAPHS = ("horse", "ship", "airplane")


NORMALIZE = {"NormalizeImage": {"mean": MEAN, "std": STD, "order": ""}}
TRANSFORMS = [{"DecodeImage": {"to_rgb": True}}, NORMALIZE, "ToCHWImage"]


def read(paths):
    """``[n, 3, 32, 32]``, as the network takes them."""
    transform = build_transforms(TRANSFORMS, "TRANSFORMS")
    return np.stack([transform(path.read_bytes()) for path in paths])


def lists(data, name):
    """``(path, label)`` of a list."""
    lines = (data / name).read_text(encoding="utf-8").splitlines()
    return [(data / line.rpartition(" ")[0], int(line.rpartition(" ")[2])) for line in lines]


def build(entry, weights):
    """The backbone with its weights, and the mechanism where it belongs."""
    network = BACKBONES["CifarResNet20"](class_num=CLASSES)
    load_checkpoint(network, weights)
    arguments = dict(ARGUMENTS.get(entry.name, {}))
    if "reduction" in inspect.signature(entry.cls).parameters and entry.name not in (
        "PAM",
        "CrissCrossAttention",
        "CoordAttention",
    ):
        arguments.setdefault("reduction", REDUCTION)
    aggregates = entry.domain == "spatial" and entry.name not in ("SpatialAttention",)
    where = (
        {"at": "stage", "stages": 3 if entry.name in WIDE else [2, 3]}
        if aggregates or entry.name in (*WIDE, "CAM", "BAM")
        else {}
    )
    insert_attention(network, {"name": entry.name, **arguments}, input_shape=[3, 32, 32], **where)
    return network


def train(network, images, labels, steps, batch=64):
    """Attention and classifier, with the backbone as it is; returns the accuracy of the last steps."""
    own = own_parts(network)
    network.eval()
    for name, layer in network.named_sublayers():
        if f"{name}.".startswith(own):
            layer.training = True
    for name, parameter in network.named_parameters():
        parameter.stop_gradient = not name.startswith(own)
    trained = [p for p in network.parameters() if not p.stop_gradient]
    optimizer = paddle.optimizer.Adam(2e-3, parameters=trained)
    right = []
    for _ in range(steps):
        chosen = np.random.randint(0, len(images), batch)
        logits = network(paddle.to_tensor(images[chosen]))
        wanted = paddle.to_tensor(labels[chosen])
        paddle.nn.functional.cross_entropy(logits, wanted).backward()
        optimizer.step()
        optimizer.clear_grad()
        right.append(float((logits.argmax(axis=1) == wanted).astype("float32").mean()))
    return float(np.mean(right[-10:]))


def draw(network, photographs, target):
    """The maps of the last layer that has one, on each photograph."""
    maps = record_maps(network, photographs, features=True)
    maps = [m for m in maps if m.layer == maps[-1].layer and min(m.size) > 1] or maps
    photograph, rows = photographer(TRANSFORMS), []
    for number, image in enumerate(photographs):
        own = list(pictures.map_rows(photograph(image), maps[:2], number, (0.5, 0.5)))
        panels = [panel for _, part in own for panel in part if "weighs" not in panel.title]
        # The maps first, then what the layer does to the features.
        panels.sort(key=lambda panel: panel.title.startswith(("before", "after")))
        rows.append(("", panels[:6]))
    pictures.save(pictures.draw_rows(rows), str(target), dpi=70)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="mechanisms (default: all without a picture)")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of images with train_list.txt, test_list.txt"
    )
    parser.add_argument("--weights", required=True, help="a checkpoint of CifarResNet20")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/pictures")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    known = [entry.name for entry in list_attentions()]
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"unknown mechanism {unknown[0]!r} (known: {', '.join(known)})")
    options.output.mkdir(parents=True, exist_ok=True)
    chosen = lists(options.data, "train_list.txt")
    chosen = random.Random(0).sample(chosen, min(4000, len(chosen)))
    images, labels = read([path for path, _ in chosen]), np.array([label for _, label in chosen])
    test = lists(options.data, "test_list.txt")
    photographs = read([next(p for p, _ in test if p.parent.name == name) for name in PHOTOGRAPHS])
    for entry in list_attentions():
        target = options.output / f"{entry.cls.__module__.rpartition('.')[2]}.png"
        if entry.name not in options.names and (options.names or target.is_file()):
            continue
        paddle.seed(0)
        np.random.seed(0)
        network = build(entry, options.weights)
        accuracy = train(network, images, labels, options.steps)
        draw(network, photographs, target)
        print(f"{entry.name}: {accuracy:.2f} of the last training images right; {target}", flush=True)


if __name__ == "__main__":
    main()
