"""The augmentation family: against PaddleClas' own operators with the same random state, and by what they do."""

import importlib
import inspect
import os
import random
from pathlib import Path

import numpy as np
import pytest
from paddleclas_home import ENVIRONMENT, HOME, needs_paddleclas
from PIL import Image, ImageOps

from paddle_attention.config import ConfigError
from paddle_attention.preprocess import OPERATORS, build_transforms
from paddle_attention.preprocess.auto_augment import IMAGENET_POLICY
from paddle_attention.preprocess.distortions import DISTORTIONS, Style
from paddle_attention.preprocess.generators import set_seed

needs_tree = pytest.mark.skipif(
    not HOME or any(mark.args[0] for mark in needs_paddleclas), reason="needs a PaddleClas source tree"
)
PIXELS = np.random.RandomState(0).randint(0, 256, (48, 48, 3)).astype("uint8")
PIXELS[10:30, 5:40] = [200, 30, 90]

# name, arguments; each is compared with PaddleClas' for many random states
SAME = [
    ("AutoAugment", {}),
    ("RandAugment", {}),
    ("RandAugment", {"num_layers": 3, "magnitude": 9, "fillcolor": (1, 2, 3)}),
    ("RandAugmentV3", {}),
    ("RandAugmentV3", {"num_layers": 2, "interpolation": "bilinear", "magnitude": 10}),
    *(
        ("TimmAutoAugment", {"config_str": text, "interpolation": mode, "img_size": 224})
        for text in (
            "rand-m9-mstd0.5-inc1",
            "rand-m1-mstd0.5-inc1",
            "rand-m15-mstd0.5-inc1",
            "rand-m8-inc1-mstd1.0",
            "rand-m6-n3-mstd0.5",
            "rand-m10",
            "rand-m5-w0-n4",
            "rand",
        )
        for mode in ("bicubic", "random")
    ),
    ("TimmAutoAugment", {"prob": 0.5, "config_str": "rand-m9", "mean": [0.5, 0.0, 1.0]}),
    ("Cutout", {"n_holes": 2, "length": 16, "fill_value": "none"}),
    ("HideAndSeek", {}),
    ("PCALighting", {}),
]
# And these, which draw nothing.
FIXED = [
    ("Padv2", {"size": [60, 50], "pad_mode": 1, "fill_value": 0}),
    ("Padv2", {"size": 64, "pad_mode": 2, "fill_value": [1, 2, 3]}),
    ("Padv2", {"size": [60, 50], "pad_mode": -1, "offsets": [3, 1]}),
    ("Padv2", {"size": 48}),
]


def apply(operator, image, seed):
    set_seed(seed)
    return operator(image.copy())


def apply_as_theirs(operator, image, seed):
    """Where :func:`set_seed` was never called, this library draws from the modules' generators as PaddleClas does."""
    random.seed(seed)
    np.random.seed(seed)
    return operator(image.copy())


def compare_with_paddleclas():
    """In a process of its own, that uses the tree from the start: a line for every item of :data:`SAME`."""
    from paddle_attention import ppcls

    ppcls.register(HOME)
    theirs = importlib.import_module("ppcls.data.preprocess")
    for name, arguments in SAME + FIXED:
        print(f"{name} {arguments}: {_compare(theirs, name, arguments)}")


def _compare(theirs, name, arguments):
    try:
        reference = getattr(theirs, name)(**arguments)
    except (AttributeError, TypeError) as error:  # an older PaddleClas
        return f"not there: {error}"
    if name == "TimmAutoAugment" and "prob" not in inspect.signature(type(reference).__init__).parameters:
        older = reference  # it does not draw whether it applies

        def reference(image):
            random.random()
            return older(image)

    ours, image = OPERATORS[name](**arguments), PIXELS
    if name == "HideAndSeek":
        image = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
    if name == "PCALighting":
        image = PIXELS.astype("float32") / 255
    changed = 0
    for seed in range(1 if (name, arguments) in FIXED else 150):
        got = apply_as_theirs(ours, image, seed)
        try:
            expected = apply_as_theirs(reference, image, seed)
        except ValueError as error:  # new versions of Pillow do not posterize to 0 bits, which is black here
            if "bits must be between" in str(error):
                continue
            raise
        if got.dtype != expected.dtype or not np.array_equal(got, expected):
            return f"differs with seed {seed}"
        changed += not np.array_equal(got, image)
    enough = changed > 20 or (name, arguments) in FIXED
    return "equal" if enough else "hardly ever changes anything"


@needs_tree
def test_equal_to_paddleclas(workspace):
    code = "import test_augmentations; test_augmentations.compare_with_paddleclas()"
    path = os.pathsep.join([workspace.environment["PYTHONPATH"], str(Path(__file__).parent)])
    done = workspace.run("-c", code, PADDLECLAS_HOME=HOME, PYTHONPATH=path, **ENVIRONMENT)
    found = dict(
        line.rsplit(": ", 1) for line in done.stdout.splitlines() if line.startswith(tuple(OPERATORS))
    )
    compared = {what: said for what, said in found.items() if "not there" not in what}
    assert len(found) == len(SAME + FIXED)
    assert set(compared.values()) == {"equal"}, compared
    assert len(compared) > 3


@pytest.mark.parametrize(("name", "arguments"), SAME, ids=[f"{n} {a}" for n, a in SAME])
def test_images_stay_images(name, arguments):
    operator = OPERATORS[name](**arguments)
    image = np.ascontiguousarray(PIXELS.transpose(2, 0, 1)) if name == "HideAndSeek" else PIXELS
    before = image.copy()
    results = [apply(operator, image, seed) for seed in range(40)]
    assert all(result.shape == image.shape for result in results)
    assert any(not np.array_equal(result, image) for result in results)
    np.testing.assert_array_equal(image, before)  # what is read from memory stays as it is
    np.testing.assert_array_equal(apply(operator, image, 7), results[7])


def distorted(name, amount, seed=0):
    set_seed(seed)
    return np.asarray(DISTORTIONS[name](Image.fromarray(PIXELS), amount, Style((9, 9, 9))))


def test_distortions_do_what_they_say():
    np.testing.assert_array_equal(distorted("invert", 0), 255 - PIXELS)
    np.testing.assert_array_equal(distorted("posterize", 3), PIXELS & 0b11100000)
    np.testing.assert_array_equal(distorted("solarize", 128), np.where(PIXELS < 128, PIXELS, 255 - PIXELS))
    np.testing.assert_array_equal(
        distorted("equalize", 0), np.asarray(ImageOps.equalize(Image.fromarray(PIXELS)))
    )
    moved = {tuple(distorted("translateX", 0.25, seed)[0, 0]) for seed in range(8)}
    assert moved == {(9, 9, 9), tuple(PIXELS[0, 12])}  # to the right, and to the left by a quarter
    rows = {tuple(distorted("translateY", 0.25, seed)[-1, 0]) for seed in range(8)}
    assert rows == {(9, 9, 9), tuple(PIXELS[35, 0])}  # up, and down
    assert not distorted("posterize", 0).any()
    brighter = {distorted("brightness", 0.5, seed).mean() > PIXELS.mean() for seed in range(8)}
    assert brighter == {True, False}
    assert distorted("rotate", 45)[0, 0].tolist() == [9, 9, 9]
    assert distorted("color", 0.9).shape == PIXELS.shape


def test_the_policy_is_that_of_the_paper():
    """Table 9 of arXiv 1805.09501: 25 sub-policies; probabilities are tenths, levels 0 to 9."""
    assert len(IMAGENET_POLICY) == 25
    for p1, first, level1, p2, second, level2 in IMAGENET_POLICY:
        assert {first, second} <= set(DISTORTIONS)
        assert {level1, level2} <= set(range(10))
        assert min(p1, p2) >= 0
        assert max(p1, p2) <= 1


def test_magnitude_of_timms_form():
    """m0 leaves geometry and colours as they are where distortions grow with the magnitude."""
    operator = OPERATORS["TimmAutoAugment"](config_str="rand-m0-n1-inc1")
    unchanged = sum(np.array_equal(apply(operator, PIXELS, seed), PIXELS) for seed in range(200))
    assert 160 < unchanged < 200  # but for what has no magnitude: equalize, autocontrast, invert


def test_cutout_hides_squares_and_nothing_else():
    operator = OPERATORS["Cutout"](n_holes=1, length=16)
    image = np.full((48, 48, 3), 7, "uint8")
    for seed in range(30):
        hidden = (apply(operator, image, seed) == 0).all(-1)
        rows, columns = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
        assert hidden.sum() == len(rows) * len(columns)
        assert max(len(rows), len(columns)) <= 16


BAD = [
    ("TimmAutoAugment", {"config_str": "randm9"}, "config_str must begin with 'rand'"),
    ("TimmAutoAugment", {"config_str": "original-mstd0.5"}, "must begin with 'rand'"),
    ("TimmAutoAugment", {"config_str": "rand-x9"}, "'x9' is none of m, n, w, mstd, inc"),
    ("TimmAutoAugment", {"config_str": "rand-m9-m8"}, "'m8' is none of .* once each"),
    ("TimmAutoAugment", {"config_str": "rand-m9-inc0"}, "inc is 1, or left out"),
    ("TimmAutoAugment", {"config_str": "rand-m9.5"}, "m has '9.5' for a number"),
    ("TimmAutoAugment", {"config_str": "rand-n20-w0"}, "only 13 of them can come; give a smaller n"),
    ("TimmAutoAugment", {"config_str": "rand-w1"}, "the only set of weights is w0"),
    ("TimmAutoAugment", {"interpolation": "cubic"}, "interpolation must be one of"),
    ("RandAugmentV3", {"interpolation": 3}, "interpolation must be one of"),
    ("AutoAugment", {"fillcolor": 128}, "fillcolor must be three integers"),
    ("RandAugment", {"fillcolor": [1, 2, 256]}, "fillcolor must be three integers"),
    ("RandAugment", {"num_layers": 0}, r"num_layers: must be at least 1"),
    ("RandAugment", {"magnitude": 11}, r"magnitude: must be at most 10"),
    ("Cutout", {"fill_value": [1, 1, 1]}, "fill_value must be one of"),
    ("GridMask", {}, "'GridMask' is not supported"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD)
def test_bad_arguments(name, arguments, message, tmp_path):
    from paddle_attention.config.check import VALIDATOR

    item = {name: arguments}
    part = {"DataLoader": {"Train": {"dataset": {"transform_ops": [item]}}}}
    text = " ".join(error.message for error in VALIDATOR.iter_errors(part))
    if "at least" in message or "at most" in message:
        assert text
        return
    with pytest.raises(ConfigError, match=message):
        build_transforms([item], "ops")


def test_normalised_images_are_refused():
    with pytest.raises(
        ValueError, match="takes images of bytes, but got float32; put it before NormalizeImage"
    ):
        OPERATORS["AutoAugment"]()(PIXELS.astype("float32"))


def test_pictures_that_are_kept_as_pictures():
    """to_np: False keeps what the backend reads: RGB with Pillow, BGR with OpenCV."""
    import cv2

    data = cv2.imencode(".png", PIXELS[:, :, ::-1])[1].tobytes()
    for backend, expected in (("pil", PIXELS), ("cv2", PIXELS[:, :, ::-1])):
        operator = OPERATORS["DecodeImage"](to_np=False, channel_first=True, backend=backend)
        np.testing.assert_array_equal(operator(data), expected)
