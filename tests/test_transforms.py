"""Image and batch operators against direct computation."""

import io
import os
import random

import cv2
import numpy as np
import pytest
from PIL import Image
from test_augmentations import SAME

from paddle_attention.engine import ConfigError, build_transforms
from paddle_attention.preprocess import OPERATORS
from paddle_attention.preprocess.mixing import CutmixOperator, MixupOperator, OpSampler
from paddle_attention.preprocess.operators import (
    ColorJitter,
    RandCropImage,
    RandFlipImage,
    RandomCropImage,
    RandomErasing,
)

PIXELS = np.random.RandomState(0).randint(0, 256, (37, 52, 3)).astype("uint8")


@pytest.fixture(autouse=True)
def _random():
    random.seed(0)
    np.random.seed(0)


def encoded(ending):
    return cv2.imencode(ending, PIXELS[:, :, ::-1])[1].tobytes()


def normalized(x):
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return (x.astype("float32") * np.float32(1 / 255) - mean) / std


# operators, input, expected output
CASES = [
    ([{"DecodeImage": None}], encoded(".png"), PIXELS),
    ([{"DecodeImage": {"backend": "pil"}}], encoded(".png"), PIXELS),
    ([{"DecodeImage": {"to_rgb": False}}], encoded(".png"), PIXELS[:, :, ::-1]),
    ([{"DecodeImage": {"channel_first": True}}], encoded(".png"), PIXELS.transpose(2, 0, 1)),
    ([{"ResizeImage": {"size": [20, 30]}}], PIXELS, cv2.resize(PIXELS, (20, 30))),
    ([{"ResizeImage": {"resize_short": 74}}], PIXELS, cv2.resize(PIXELS, (104, 74))),
    (
        [{"ResizeImage": {"size": 24, "interpolation": "bicubic", "backend": "pil"}}],
        PIXELS,
        np.asarray(Image.fromarray(PIXELS).resize((24, 24), Image.Resampling.BICUBIC)),
    ),
    ([{"CropImage": {"size": [10, 20]}}], PIXELS, PIXELS[8:28, 21:31]),
    ([{"Pad": {"padding": 2, "fill": 7}}], PIXELS, np.pad(PIXELS, ((2, 2), (2, 2), (0, 0)), constant_values=7)),
    ([{"Padv2": {"size": [60, 40], "pad_mode": 1, "fill_value": 3}}], PIXELS,
     np.pad(PIXELS.astype("float32"), ((1, 2), (4, 4), (0, 0)), constant_values=3)),
    ([{"Padv2": {"size_divisor": 40, "pad_mode": 0, "fill_value": 3}}], PIXELS,
     np.pad(PIXELS.astype("float32"), ((0, 3), (0, 28), (0, 0)), constant_values=3)),
    ([{"Padv2": {"size": [60, 40], "pad_mode": 2, "fill_value": 3}}], PIXELS,
     np.pad(PIXELS.astype("float32"), ((3, 0), (8, 0), (0, 0)), constant_values=3)),
    ([{"Padv2": {"size": [60, 40], "pad_mode": -1, "offsets": [5, 1], "fill_value": 3}}], PIXELS,
     np.pad(PIXELS.astype("float32"), ((1, 2), (5, 3), (0, 0)), constant_values=3)),
    ([{"NormalizeImage": {"order": "", "scale": "1.0/255.0"}}], PIXELS, normalized(PIXELS)),
    (
        [{"ToCHWImage": None}, {"NormalizeImage": {"order": "chw"}}],
        PIXELS,
        normalized(PIXELS).transpose(2, 0, 1),
    ),
    ([{"NormalizeImage": {"scale": 1, "mean": [0, 0, 1], "std": [1, 2, 1], "order": "hwc"}}], PIXELS,
     (PIXELS.astype("float32") - np.float32([0, 0, 1])) / np.float32([1, 2, 1])),
]  # fmt: skip


@pytest.mark.parametrize(("operators", "image", "expected"), CASES, ids=[str(c[0]) for c in CASES])
def test_deterministic_operators(operators, image, expected):
    got = build_transforms(operators, "ops")(image)
    assert got.dtype == expected.dtype
    assert np.array_equal(got, expected)


def test_every_operator_is_tested():
    tested = {next(iter(item)) for case in CASES for item in case[0]}
    tested |= {"RandCropImage", "RandomCropImage", "RandFlipImage", "ColorJitter", "RandomErasing"}
    tested |= {name for name, _ in SAME}
    assert tested == set(OPERATORS)


def test_images_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="an image of 52x37 at 0, 0 does not fit into 40x40"):
        build_transforms([{"Padv2": {"size": 40}}], "ops")(PIXELS)


def test_random_crops():
    """Of an image that holds its own coordinates, the crops' place, share and aspect are known."""
    rows, columns = np.mgrid[0:80, 0:120]
    image = np.stack([rows, columns, rows], axis=-1).astype("float32")
    shares, aspects = [], []
    for _ in range(300):
        crop = RandCropImage(32, scale=[0.3, 0.6], ratio=[0.8, 1.25])(image)
        assert crop.shape == (32, 32, 3)
        # Interpolation keeps the slopes: the crop's extent is 32 times them.
        height = (crop[20, 0, 0] - crop[10, 0, 0]) / 10 * 32
        width = (crop[0, 20, 1] - crop[0, 10, 1]) / 10 * 32
        shares.append(height * width / (80 * 120))
        aspects.append(width / height)
    assert 0.27 < min(shares) < 0.35
    assert 0.5 < max(shares) < 0.62
    assert 0.75 < min(aspects) < 0.9
    assert 1.1 < max(aspects) < 1.3
    corners = {tuple(RandomCropImage(78)(image)[0, 0, :2].astype(int)) for _ in range(300)}
    assert {c[0] for c in corners} == {0, 1, 2}
    assert {c[1] for c in corners} == set(range(43))


@pytest.mark.parametrize(
    ("code", "flipped"), [(1, PIXELS[:, ::-1]), (0, PIXELS[::-1]), (-1, PIXELS[::-1, ::-1])]
)
def test_flip(code, flipped):
    results = [RandFlipImage(code)(PIXELS) for _ in range(200)]
    changed = sum(np.array_equal(r, flipped) for r in results)
    assert changed + sum(np.array_equal(r, PIXELS) for r in results) == 200
    assert 70 < changed < 130


def test_color_jitter():
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
    results = [jitter(PIXELS) for _ in range(5)]
    assert all(r.shape == PIXELS.shape and r.dtype == np.uint8 for r in results)
    assert not np.array_equal(results[0], results[1])
    assert np.array_equal(ColorJitter(prob=0, brightness=0.4)(PIXELS), PIXELS)


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_random_erasing(mode):
    image = np.full([60, 60, 3], 9, "float32")
    erase = RandomErasing(EPSILON=1.0, sl=0.1, sh=0.2, r1=0.5, mode=mode, mean=[1, 2, 3])
    for _ in range(50):
        erased = (erase(image) != 9).any(-1)
        rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
        area = len(rows) * len(columns)
        assert erased.sum() == area  # a full rectangle
        assert 0.09 < area / 3600 < 0.22
        assert 0.4 < len(rows) / len(columns) < 2.4
    assert (image == 9).all()
    if mode == "const":
        assert set(np.unique(erase(image))) == {1, 2, 3, 9}
    assert np.array_equal(RandomErasing(EPSILON=0)(image), image)
    assert RandomErasing(EPSILON="1.0/2.0").probability == 0.5


def images_and_labels(n=8):
    return np.random.rand(n, 3, 10, 12).astype("float32"), np.arange(n) % 4


def test_mixup():
    images, labels = images_and_labels()
    mixed, targets = MixupOperator(4, alpha=1.0)(images, labels)
    assert mixed.dtype == targets.dtype == np.float32
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    share = targets[np.arange(8), labels].min()
    partners = [
        next(
            j
            for j in range(8)
            if np.allclose(mixed[i], share * images[i] + (1 - share) * images[j], atol=1e-5)
        )
        for i in range(8)
    ]
    assert sorted(partners) == list(range(8))
    expected = share * np.eye(4)[labels] + (1 - share) * np.eye(4)[labels[partners]]
    np.testing.assert_allclose(targets, expected, atol=1e-5)


def test_cutmix():
    for _ in range(20):
        images, labels = images_and_labels()
        original = images.copy()
        mixed, targets = CutmixOperator(4, alpha=1.0)(images, labels)
        assert np.array_equal(images, original)
        np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
        # An image whose partner is another one shows the pasted share.
        pasted = [(mixed[i] != original[i]).any(0).mean() for i in range(8)]
        share = max(pasted)
        for i in range(8):
            if pasted[i] and targets[i, labels[i]] < 1:
                assert abs(targets[i, labels[i]] - (1 - share)) < 1e-5


def test_op_sampler():
    images, labels = images_and_labels()
    sampler = OpSampler(4, MixupOperator={"alpha": 1.0, "prob": 0.25}, CutmixOperator={"prob": 0.25})
    kinds = {"none": 0, "mixed": 0}
    for _ in range(200):
        _, targets = sampler(images, labels)
        kinds["none" if targets is labels else "mixed"] += 1
    assert 70 < kinds["none"] < 130
    with pytest.raises(ValueError, match=r"sum to 1\.2"):
        OpSampler(4, MixupOperator={"prob": 0.6}, CutmixOperator={"prob": 0.6})
    with pytest.raises(ValueError, match=r"needs Arch\.class_num"):
        MixupOperator(None)


def test_crop_larger_than_the_image():
    with pytest.raises(ValueError, match="cannot crop 60x60 from a 52x37 image"):
        build_transforms([{"CropImage": {"size": 60}}], "ops")(PIXELS)


def test_key_paths():
    with pytest.raises(ConfigError, match=r"Infer\.transforms\.1: 'Resize' .* did you mean 'ResizeImage'"):
        build_transforms([{"DecodeImage": None}, {"Resize": None}], "Infer.transforms")


def test_no_program_is_started_for_an_image(tmp_path, monkeypatch):
    """Pillow would have Ghostscript draw a PostScript file, whatever its name says."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n{} loop\n%%EOF\n"
    for backend in ("cv2", "pil"):
        with pytest.raises(ValueError, match="not an image of a known format"):
            build_transforms([{"DecodeImage": {"backend": backend}}], "ops")(data)
    assert not (tmp_path / "started").exists()


def test_the_limit_on_pixels_is_ours(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow stops at twice as many
    file = io.BytesIO()
    Image.new("L", (40, 40)).save(file, "PNG")
    with pytest.raises(ValueError, match="has 40x40 pixels, more than 1599"):
        build_transforms([{"DecodeImage": None}], "ops", 1599)(file.getvalue())
    assert build_transforms([{"DecodeImage": None}], "ops", 1600)(file.getvalue()).shape == (40, 40, 3)


def test_sixteen_bits():
    """Either backend takes the upper eight."""
    grey = np.random.RandomState(0).randint(0, 2**16, (9, 7)).astype("uint16")
    data = cv2.imencode(".png", grey)[1].tobytes()
    for backend in ("cv2", "pil"):
        image = build_transforms([{"DecodeImage": {"backend": backend}}], "ops")(data)
        np.testing.assert_array_equal(image, np.repeat((grey >> 8)[:, :, None], 3, axis=2))


def test_a_line_of_pixels_is_not_made_huge():
    operators = build_transforms([{"DecodeImage": None}, {"ResizeImage": {"resize_short": 256}}], "ops")
    data = cv2.imencode(".png", np.zeros((1, 10000, 3), "uint8"))[1].tobytes()
    with pytest.raises(ValueError, match="resized to 2560000x256 pixels, more than 100000000"):
        operators(data)


def test_an_order_that_does_not_fit_is_a_mistake_of_the_configuration():
    for order, operators in (("chw", []), ("", [{"ToCHWImage": None}])):
        operators = build_transforms([*operators, {"NormalizeImage": {"order": order}}], "ops")
        with pytest.raises(
            ConfigError, match=r"NormalizeImage\.order: an image of shape .* has no 3 channels"
        ):
            operators(PIXELS)
