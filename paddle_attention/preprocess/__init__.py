"""Images to arrays and probabilities to classes, in training and in prediction alike."""

from ._arguments import as_number
from .build import OPERATORS, build_transforms, photographer
from .classification import Classification
from .decode import MAX_PIXELS, check_image
from .images import IMAGE_ENDINGS, list_images, read_batches
from .mixing import BATCH_OPERATORS, build_batch_transforms
from .postprocess import (
    POSTPROCESSES,
    MultiLabelThreshOutput,
    ThreshOutput,
    TopkPostProcess,
    build_postprocess,
    probabilities,
)

__all__ = [
    "BATCH_OPERATORS",
    "IMAGE_ENDINGS",
    "MAX_PIXELS",
    "OPERATORS",
    "POSTPROCESSES",
    "Classification",
    "MultiLabelThreshOutput",
    "ThreshOutput",
    "TopkPostProcess",
    "as_number",
    "build_batch_transforms",
    "build_postprocess",
    "build_transforms",
    "check_image",
    "list_images",
    "photographer",
    "probabilities",
    "read_batches",
]
