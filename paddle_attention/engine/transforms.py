"""Image and batch operators under PaddleClas' names, giving PaddleClas' numbers.

An image is an HWC uint8 or float32 array between operators; colours are RGB
unless ``DecodeImage.to_rgb`` is off.
"""

import io
import math
import re
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..config import ConfigError, build_by_name, single_item
from .generators import numpy_random, random

MAX_PIXELS = 89_478_485  # of one image: Pillow's own limit, 256 MB of RGB

_CV2_MODES = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "random": (cv2.INTER_LINEAR, cv2.INTER_CUBIC),
}
_PIL_MODES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
    "random": (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
}


def _pair(name, value):
    values = [value, value] if isinstance(value, int) else list(value)
    if len(values) != 2 or any(not isinstance(v, int) or v < 1 for v in values):
        raise ValueError(f"{name} must be a positive integer or two of them, but got {value!r}")
    return tuple(values)


def _choice(name, value, known):
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, but got {value!r}")
    return value


# Those that OpenCV or Pillow decode by themselves; for others Pillow would start a program.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_LARGEST = 100_000_000  # pixels of a resized image


class _Resizer:
    """Resize to ``(width, height)`` with OpenCV or Pillow."""

    def __init__(self, interpolation, backend):
        self.backend = _choice("backend", str(backend).lower(), ("cv2", "pil"))
        modes = _CV2_MODES if self.backend == "cv2" else _PIL_MODES
        interpolation = str(interpolation or "bilinear").lower()
        self.mode = modes[_choice("interpolation", interpolation, tuple(modes))]

    def __call__(self, image, size):
        mode = random.choice(self.mode) if isinstance(self.mode, tuple) else self.mode
        if size[0] * size[1] > _LARGEST:
            raise ValueError(f"would be resized to {size[0]}x{size[1]} pixels, more than {_LARGEST}")
        if self.backend == "cv2":
            return cv2.resize(image, size, interpolation=mode)
        return np.asarray(Image.fromarray(image).resize(size, mode))


class DecodeImage:
    """Bytes of an image file (or an HWC array) to an HWC array.

    Args:
        to_np, to_rgb, channel_first, backend: as in PaddleClas.
        max_pixels (int, optional): refuse larger images before they are decoded.

    Raises:
        ValueError: for a file that is no image, is cut off or damaged, or is too large.
    """

    def __init__(self, to_np=True, to_rgb=True, channel_first=False, backend="cv2", max_pixels=None):
        self.backend = _choice("backend", str(backend).lower(), ("cv2", "pil"))
        _choice("to_np", to_np, (True,))
        self.to_rgb = to_rgb
        self.channel_first = channel_first
        self.max_pixels = max_pixels or MAX_PIXELS

    def __call__(self, image):
        if isinstance(image, bytes):
            image = self._decode(image)
        if self.to_rgb:
            image = image[:, :, ::-1]
        return image.transpose((2, 0, 1)) if self.channel_first else image

    def _decode(self, data):
        check_image(data, self.max_pixels)
        if self.backend == "pil":
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                return _eight_bits(picture)[:, :, ::-1]
        image = cv2.imdecode(np.frombuffer(data, dtype="uint8"), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("not an image that OpenCV can decode")
        return image


def check_image(data, max_pixels):
    """Raise ValueError for bytes that are no whole image or one of more than ``max_pixels``.

    OpenCV fills what is missing of a file with grey and says nothing.
    """
    if not data:
        raise ValueError("not an image: the file is empty")
    Image.init()
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow's own limit, which it would insist on
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit on pixels
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                _check_whole(picture, data, max_pixels)
    except ValueError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error}; the limit is {max_pixels} (Global.max_image_pixels)") from error
    except UnidentifiedImageError:
        raise ValueError("not an image of a known format") from None
    except Exception as error:  # Pillow's readers raise nearly anything
        raise ValueError(f"not a whole image: {error or type(error).__name__}") from error


def _eight_bits(picture):
    """The pixels ``[H, W, 3]`` in RGB; of 16 bits the upper eight, as OpenCV takes them."""
    if picture.mode.startswith("I"):
        grey = (np.asarray(picture).astype("int64") >> 8).clip(0, 255).astype("uint8")
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


def _check_whole(picture, data, max_pixels):
    width, height = picture.size
    if width * height > max_pixels:
        raise ValueError(
            f"has {width}x{height} pixels, more than {max_pixels}; make it smaller, or raise "
            "Global.max_image_pixels"
        )
    if picture.format in ("JPEG", "MPO"):
        if not _jpeg_ends(data):
            raise ValueError("not a whole JPEG: its end is missing")
    elif picture.format == "PNG":
        picture.verify()  # the checksums of all parts up to the end, without decoding
    else:
        picture.load()


def _jpeg_ends(data):
    """Whether a JPEG's end marker follows its first scan; those of thumbnails stand before it."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan; in its data 0xFF is always followed by 0x00 or a restart
            return data.find(b"\xff\xd9", position) >= 0
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


class ResizeImage:
    """Resize to ``size`` (``[width, height]``), or so that the short side is ``resize_short``."""

    def __init__(self, size=None, resize_short=None, interpolation=None, backend="cv2"):
        if (size is None) == (resize_short is None):
            raise ValueError("give one of size and resize_short")
        self.size = None if size is None else _pair("size", size)
        self.resize_short = resize_short
        self.resize = _Resizer(interpolation, backend)

    def __call__(self, image):
        if self.size is not None:
            return self.resize(image, self.size)
        height, width = image.shape[:2]
        ratio = float(self.resize_short) / min(width, height)
        return self.resize(image, (round(width * ratio), round(height * ratio)))


class CropImage:
    """Crop the centre, ``size`` is ``[width, height]``."""

    def __init__(self, size):
        self.width, self.height = _pair("size", size)

    def __call__(self, image):
        height, width = image.shape[:2]
        if height < self.height or width < self.width:
            raise ValueError(f"cannot crop {self.width}x{self.height} from a {width}x{height} image")
        left, top = (width - self.width) // 2, (height - self.height) // 2
        return image[top : top + self.height, left : left + self.width]


class RandCropImage:
    """Crop a random area (a share ``scale`` of the image) of random ``ratio``, resize to ``size``."""

    def __init__(self, size, scale=None, ratio=None, interpolation=None, use_log_aspect=False, backend="cv2"):
        self.size = _pair("size", size)
        self.scale = scale or [0.08, 1.0]
        self.ratio = ratio or [3.0 / 4.0, 4.0 / 3.0]
        self.use_log_aspect = use_log_aspect
        self.resize = _Resizer(interpolation, backend)

    def __call__(self, image):
        height, width = image.shape[:2]
        if self.use_log_aspect:
            aspect = math.exp(random.uniform(*map(math.log, self.ratio)))
        else:
            aspect = random.uniform(*self.ratio)
        # No crop of this aspect is larger than this share of the image.
        largest = min(width / height / aspect, height / width * aspect)
        low, high = (min(s, largest) for s in self.scale)
        area = width * height * random.uniform(low, high)
        crop_w = max(1, min(width, int(math.sqrt(area * aspect))))
        crop_h = max(1, min(height, int(math.sqrt(area / aspect))))
        left, top = random.randint(0, width - crop_w), random.randint(0, height - crop_h)
        return self.resize(image[top : top + crop_h, left : left + crop_w], self.size)


class Pad:
    """Add ``padding`` pixels of value ``fill`` on every side."""

    def __init__(self, padding, fill=0, backend="cv2"):
        _choice("backend", backend, ("cv2",))
        self.padding, self.fill = padding, fill

    def __call__(self, image):
        p = self.padding
        return np.pad(image, ((p, p), (p, p), (0, 0)), constant_values=self.fill)


class RandomCropImage:
    """Crop ``size`` (``[width, height]``) at a random place."""

    def __init__(self, size):
        self.width, self.height = _pair("size", size)

    def __call__(self, image):
        height, width = image.shape[:2]
        if height < self.height or width < self.width:
            raise ValueError(f"cannot crop {self.width}x{self.height} from a {width}x{height} image")
        top, left = random.randint(0, height - self.height), random.randint(0, width - self.width)
        return image[top : top + self.height, left : left + self.width]


class RandFlipImage:
    """Flip with probability 1/2: left-right (1), upside down (0) or both (-1)."""

    def __init__(self, flip_code=1):
        self.flip_code = _choice("flip_code", flip_code, (1, 0, -1))

    def __call__(self, image):
        return cv2.flip(image, self.flip_code) if random.random() < 0.5 else image


class ColorJitter:
    """``paddle.vision.transforms.ColorJitter``, applied with probability ``prob``."""

    def __init__(self, prob=2, brightness=0, contrast=0, saturation=0, hue=0):
        from paddle.vision import transforms

        self.prob = prob
        kinds = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        self.steps = []
        for name, amount in kinds.items():
            limits = getattr(transforms, f"{name.capitalize()}Transform")(amount).value
            self.steps.append((getattr(transforms.functional, f"adjust_{name}"), limits))

    def __call__(self, image):
        if random.random() >= self.prob:
            return image
        picture, steps = Image.fromarray(np.ascontiguousarray(image)), list(self.steps)
        random.shuffle(steps)
        for adjust, limits in steps:
            if limits is not None:
                picture = adjust(picture, random.uniform(*limits))
        return np.asarray(picture)


class RandomErasing:
    """Erase a random rectangle, arXiv 1708.04896.

    ``EPSILON`` is the probability, ``[sl, sh]`` the range of the erased share
    and ``[r1, 1/r1]`` of the aspect ratio; ``mode`` fills with ``mean``
    (``const``), one random colour (``rand``) or noise (``pixel``).
    """

    def __init__(
        self,
        EPSILON=0.5,
        sl=0.02,
        sh=0.4,
        r1=0.3,
        mean=(0.0, 0.0, 0.0),
        attempt=100,
        use_log_aspect=False,
        mode="const",
    ):
        self.probability, self.low, self.high, self.aspect = map(_number, (EPSILON, sl, sh, r1))
        self.mean = np.asarray(mean, dtype="float32")
        self.attempt = attempt
        self.use_log_aspect = use_log_aspect
        self.mode = _choice("mode", mode, ("const", "rand", "pixel"))

    def __call__(self, image):
        if random.random() > self.probability:
            return image
        height, width, channels = image.shape
        for _ in range(self.attempt):
            area = random.uniform(self.low, self.high) * height * width
            if self.use_log_aspect:
                aspect = math.exp(random.uniform(math.log(self.aspect), -math.log(self.aspect)))
            else:
                aspect = random.uniform(self.aspect, 1 / self.aspect)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = random.randint(0, height - h), random.randint(0, width - w)
                image = np.array(image)
                image[top : top + h, left : left + w] = self._fill(h, w, channels)
                return image
        return image

    def _fill(self, height, width, channels):
        if self.mode == "const":
            return self.mean
        size = (height, width, channels) if self.mode == "pixel" else (1, 1, channels)
        return numpy_random.normal(size=size)


class NormalizeImage:
    """``(image * scale - mean) / std`` in float32; ``order`` is ``'chw'`` or else HWC."""

    def __init__(self, scale=None, mean=None, std=None, order="chw", output_fp16=False, channel_num=3):
        _choice("channel_num", channel_num, (3,))
        shape = (3, 1, 1) if order == "chw" else (1, 1, 3)
        self.scale = np.float32(1.0 / 255.0 if scale is None else _number(scale))
        self.mean = np.array(mean or [0.485, 0.456, 0.406]).reshape(shape).astype("float32")
        self.std = np.array(std or [0.229, 0.224, 0.225]).reshape(shape).astype("float32")
        self.dtype = "float16" if output_fp16 else "float32"

    def __call__(self, image):
        return ((image.astype("float32") * self.scale - self.mean) / self.std).astype(self.dtype)


class ToCHWImage:
    """HWC to CHW."""

    def __call__(self, image):
        return image.transpose((2, 0, 1))


def _number(value):
    """A number, also when the YAML holds a quotient such as ``1.0/255.0``."""
    if isinstance(value, str) and re.fullmatch(r"\s*[\d.e+-]+\s*(/\s*[\d.e+-]+\s*)?", value):
        over, _, under = value.partition("/")
        return float(over) / float(under or 1)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"must be a number or a quotient of two, but got {value!r}")
    return value


class MixupOperator:
    """Mix every image and label with another of the batch, arXiv 1710.09412."""

    def __init__(self, class_num, alpha=1.0):
        self.class_num, self.alpha = _class_num(class_num), _positive("alpha", alpha)

    def __call__(self, images, labels):
        share, other = numpy_random.beta(self.alpha, self.alpha), numpy_random.permutation(len(images))
        images = (share * images + (1 - share) * images[other]).astype(images.dtype)
        return images, _mix_labels(labels, labels[other], share, self.class_num)


class CutmixOperator:
    """Paste a rectangle of another image into every image of the batch, arXiv 1905.04899."""

    def __init__(self, class_num, alpha=0.2):
        self.class_num, self.alpha = _class_num(class_num), _positive("alpha", alpha)

    def __call__(self, images, labels):
        share, other = numpy_random.beta(self.alpha, self.alpha), numpy_random.permutation(len(images))
        height, width = images.shape[2:]
        cut = math.sqrt(1.0 - share)
        y, x = numpy_random.randint(height), numpy_random.randint(width)
        half_h, half_w = int(height * cut) // 2, int(width * cut) // 2
        top, bottom = max(y - half_h, 0), min(y + half_h, height)
        left, right = max(x - half_w, 0), min(x + half_w, width)
        mixed = images.copy()
        mixed[:, :, top:bottom, left:right] = images[other][:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return mixed, _mix_labels(labels, labels[other], share, self.class_num)


class OpSampler:
    """Apply one of several batch operators to a batch, each with its ``prob``, or none."""

    def __init__(self, class_num, **operators):
        self.operators, self.weights = [], []
        for name, arguments in operators.items():
            arguments = dict(arguments or {})
            if "prob" not in arguments:
                raise ValueError(f"{name}: argument 'prob' is missing")
            self.weights.append(arguments.pop("prob"))
            table = {k: v for k, v in BATCH_OPERATORS.items() if v is not OpSampler}
            self.operators.append(build_by_name("OpSampler", table, name, arguments, class_num=class_num))
        if sum(self.weights) > 1 + 1e-9:
            raise ValueError(f"the probabilities sum to {sum(self.weights)}, more than 1")
        self.weights.append(max(0.0, 1 - sum(self.weights)))
        self.operators.append(None)

    def __call__(self, images, labels):
        operator = random.choices(self.operators, weights=self.weights)[0]
        if operator is None:
            return images, labels
        return operator(images, labels)


def _class_num(value):
    if not value:
        raise ValueError("needs Arch.class_num")
    return value


def _positive(name, value):
    if not value > 0:
        raise ValueError(f"{name} must be positive, but got {value!r}")
    return value


def _mix_labels(labels, others, share, class_num):
    eye = np.eye(class_num, dtype="float32")
    return (eye[labels] * share + eye[others] * (1 - share)).astype("float32")


OPERATORS = {
    cls.__name__: cls
    for cls in (
        DecodeImage,
        ResizeImage,
        CropImage,
        RandCropImage,
        RandomCropImage,
        RandFlipImage,
        Pad,
        ColorJitter,
        RandomErasing,
        NormalizeImage,
        ToCHWImage,
    )
}
BATCH_OPERATORS = {cls.__name__: cls for cls in (MixupOperator, CutmixOperator, OpSampler)}


def build_transforms(items, path, max_pixels=None):
    """One function of an image from a YAML list of operators.

    Args:
        items (list): names, or dicts of one name and its arguments.
        path (str): key path for messages.
        max_pixels (int, optional): of one image file; by default :data:`MAX_PIXELS`.

    Raises:
        ConfigError: naming the key, for anything that cannot be honoured.
    """
    operators = [
        build_by_name(f"{path}.{i}", OPERATORS, *single_item(f"{path}.{i}", item), max_pixels=max_pixels)
        for i, item in enumerate(_as_list(items, path))
    ]

    def transform(image):
        for operator in operators:
            image = operator(image)
        return image

    return transform


def build_batch_transforms(items, path, class_num):
    """A list of functions of ``(images, labels)`` from a YAML list of batch operators."""
    operators = []
    for i, item in enumerate(_as_list(items, path)):
        name, arguments = single_item(f"{path}.{i}", item)
        if name == "OpSampler":
            try:
                operators.append(OpSampler(class_num, **(arguments or {})))
            except ConfigError as error:
                raise ConfigError(f"{path}.{i}.{error}") from error
            except (TypeError, ValueError, ArithmeticError) as error:
                raise ConfigError(f"{path}.{i}.OpSampler: {error}") from error
        else:
            operators.append(
                build_by_name(f"{path}.{i}", BATCH_OPERATORS, name, arguments, class_num=class_num)
            )
    return operators


def _as_list(items, path):
    if not isinstance(items, list):
        raise ConfigError(f"{path}: must be a list of operators, but got {items!r}")
    return items
