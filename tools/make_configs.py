"""python tools/make_configs.py: write ppcls_configs/ImageNet, one YAML for every named network.

The networks and their training recipes are the data below and in paddle_attention/networks; the
rest is the template SENet/se_resnet50.yaml.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

DIRECTORY = os.path.join(ROOT, "ppcls_configs", "ImageNet")
TEMPLATE = os.path.join(DIRECTORY, "SENet", "se_resnet50.yaml")
CARDS = 4
# family: (directory, paper, recipe)
FAMILIES = {
    "SE": ("SENet", "arXiv 1709.01507", "senet"),
    "SENet154": ("SENet", "arXiv 1709.01507", "senet"),
    "CBAM": ("CBAM", "arXiv 1807.06521", "cbam"),
    "BAM": ("BAM", "arXiv 1807.06514", "cbam"),
    "ECA": ("ECANet", "arXiv 1910.03151", "eca"),
    "SGE": ("SGE", "arXiv 1905.09646", "eca"),
    "SKNet50": ("SKNet", "arXiv 1903.06586", "sknet"),
    "SKNet101": ("SKNet", "arXiv 1903.06586", "sknet"),
    "SK": ("SKNet", "arXiv 1903.06586", "sknet"),
    "GC": ("GCNet", "arXiv 1904.11492", "eca"),
    "NL": ("NonLocal", "arXiv 1711.07971", "resnet"),
    "A2": ("A2Net", "arXiv 1810.11579", "resnet"),
    "GE": ("GENet", "arXiv 1810.12348", "senet"),
    "Fca": ("FcaNet", "arXiv 2012.11879", "eca"),
    "Triplet": ("TripletAttention", "arXiv 2010.03045", "eca"),
    "Shuffle": ("ShuffleAttention", "arXiv 2102.00240", "eca"),
    "GCT": ("GCT", "arXiv 1909.11519", "resnet"),
    "SimAM": ("SimAM", "ICML 2021", "eca"),
    "scSE": ("scSE", "arXiv 1803.02579", "resnet"),
    "Coord": ("CoordAttention", "arXiv 2103.02907", "coord"),
    "DA": ("DANet", "arXiv 1809.02983", "dilated"),
    "OC": ("OCNet", "arXiv 1809.00916", "dilated"),
    "CC": ("CCNet", "arXiv 1811.11721", "dilated"),
    "EMA": ("EMANet", "arXiv 1907.13426", "dilated"),
    "PSA": ("PSANet", "ECCV 2018", "dilated"),
    "SA": ("SANet", "arXiv 1909.03402", "dilated"),
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


def family(name):
    """The entry of :data:`FAMILIES` for a network."""
    return FAMILIES[name] if name in FAMILIES else FAMILIES[name.partition("_")[0]]


def path(name):
    """Where the YAML of a network is."""
    return os.path.join(DIRECTORY, family(name)[0], name.lower() + ".yaml")


def content(name):
    """The YAML of a network."""
    _, paper, recipe = family(name)
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


def main():
    from paddle_attention import list_networks

    for name in list_networks():
        os.makedirs(os.path.dirname(path(name)), exist_ok=True)
        text = content(name)  # before the template itself is written
        with open(path(name), "w", encoding="utf-8") as file:
            file.write(text)
    print(f"{len(list_networks())} files under {DIRECTORY}")


if __name__ == "__main__":
    main()
