"""python tools/make_configs.py [--check]: write ppcls_configs/ImageNet, one YAML for every named network.

The networks and their training recipes are the data below and in paddle_attention/networks; the
rest is the template SE/se_resnet50.yaml.
"""

import argparse
import os
import pathlib
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from paddle_attention import get_attention, list_networks  # noqa: E402
from paddle_attention.networks import get_network  # noqa: E402

DIRECTORY = os.path.join(ROOT, "ppcls_configs", "ImageNet")
TEMPLATE = os.path.join(DIRECTORY, "SE", "se_resnet50.yaml")
CARDS = 4
# The recipe of a mechanism's networks; where nothing stands, PaddleClas' own for ResNet50.
MECHANISMS = {
    "SE": "senet",
    "CBAM": "cbam",
    "BAM": "cbam",
    "ECA": "eca",
    "SGE": "eca",
    "SKConv": "sknet",
    "GCBlock": "eca",
    "GatherExcite": "senet",
    "FcaLayer": "eca",
    "TripletAttention": "eca",
    "ShuffleAttention": "eca",
    "SimAM": "eca",
    "CoordAttention": "coord",
    "DAModule": "dilated",
    "BaseOC": "dilated",
    "RCCA": "dilated",
    "EMAU": "dilated",
    "PSAModule": "dilated",
    "SqueezeAttention": "dilated",
}


def _piecewise(first, epochs, *boundaries):
    values = [round(first * 0.1**i, 10) for i in range(len(boundaries) + 1)]
    return {"name": "Piecewise", "decay_epochs": list(boundaries), "values": values}, epochs


# recipe: (images per card, schedule and epochs, weight decay, label smoothing, whose it is)
RECIPES = {
    "senet": (256, _piecewise(0.6, 100, 30, 60, 90), 1e-4, None, "arXiv 1709.01507"),
    "cbam": (64, _piecewise(0.1, 90, 30, 60), 1e-4, None, "arXiv 1807.06521"),
    "eca": (64, _piecewise(0.1, 100, 30, 60, 90), 1e-4, None, "arXiv 1910.03151"),
    "sknet": (64, _piecewise(0.1, 100, 30, 60, 90), 1e-4, 0.1, "arXiv 1903.06586"),
    "coord": (64, ({"name": "Cosine", "learning_rate": 0.05}, 200), 4e-5, None, "arXiv 2103.02907"),
    "eca_mobile": (
        24,
        ({"name": "Step", "learning_rate": 0.045, "step_size": 1, "gamma": 0.98}, 400),
        4e-5,
        None,
        "arXiv 1910.03151",
    ),
    "resnet": (64, _piecewise(0.1, 120, 30, 60, 90), 1e-4, None, "PaddleClas' ResNet50"),
    "dilated": (16, _piecewise(0.025, 120, 30, 60, 90), 1e-4, None, "PaddleClas' ResNet50, a quarter batch"),
}


def mechanism(name):
    """The registry entry of the mechanism that a network is of."""
    return get_attention(get_network(name).attention[0]["name"])


def path(name):
    """Where the YAML of a network is: in the folder of its mechanism's name."""
    return os.path.join(DIRECTORY, mechanism(name).name, name.lower() + ".yaml")


def content(name):
    """The YAML of a network."""
    entry = mechanism(name)
    paper = f"arXiv {entry.arxiv}" if entry.arxiv else f"{entry.paper.partition(':')[0]}, {entry.year}"
    recipe = MECHANISMS.get(entry.name, "resnet")
    if recipe == "eca" and "Mobile" in name:
        recipe = "eca_mobile"
    if name == "SE_MobileNetV2":
        paper, recipe = "as in arXiv 1910.03151", "eca_mobile"
    batch, (schedule, epochs), decay, smoothing, whose = RECIPES[recipe]
    with open(TEMPLATE, encoding="utf-8") as file:
        text = file.read().partition("\n")[2]
    head = f"# {name}, {paper}; recipe of {whose}: batch {batch * CARDS} = {CARDS} cards x {batch}, {epochs} epochs\n"
    size = 299 if "Inception_ResNet" in name or "InceptionV3" in name else 224
    lr = "\n    ".join(f"{key}: {value}" for key, value in schedule.items())
    loss = "" if smoothing is None else f"\n        epsilon: {smoothing}"
    changes = {
        "  epochs: 100\n": f"  epochs: {epochs}\n",
        "  name: SE_ResNet50\n": f"  name: {name}\n",
        "  lr:\n    name: Piecewise\n    decay_epochs: [30, 60, 90]\n    values: [0.6, 0.06, 0.006, 0.0006]\n": (
            f"  lr:\n    {lr}\n"
        ),
        "  Train:\n    - CELoss:\n        weight: 1.0\n": f"  Train:\n    - CELoss:\n        weight: 1.0{loss}\n",
        "    coeff: 0.0001\n": f"    coeff: {decay:g}\n" if decay >= 1e-4 else f"    coeff: {decay:.5f}\n",
        "      batch_size: 256\n": f"      batch_size: {batch}\n",
        "224": str(size),
        "resize_short: 256": f"resize_short: {round(size / 0.875 / 2) * 2}",
    }
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return head + text


def differences():
    """A line for every file that is not what it should be."""
    wanted = {path(name): content(name) for name in list_networks()}
    found = {str(p) for p in pathlib.Path(DIRECTORY).rglob("*.yaml")}
    for file in sorted(found | set(wanted)):
        if file not in wanted:
            yield f"{file} is of no network"
        elif file not in found:
            yield f"{file} is missing"
        elif pathlib.Path(file).read_text(encoding="utf-8") != wanted[file]:
            yield f"{file} is another than the tool writes"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say what would change")
    if parser.parse_args().check:
        lines = list(differences())
        print("\n".join(lines) or f"{len(list_networks())} files are as they should be")
        return bool(lines)
    for name in list_networks():
        os.makedirs(os.path.dirname(path(name)), exist_ok=True)
        text = content(name)  # before the template itself is written
        with open(path(name), "w", encoding="utf-8") as file:
            file.write(text)
    print(f"{len(list_networks())} files under {DIRECTORY}")
    return False


if __name__ == "__main__":
    sys.exit(main())
