"""BAM: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import EVERY, Case, scaled
from ._numpy import batch_norm, conv, pool, relu, sigmoid


def bam(x, p, training=False, combine=np.multiply, dilation=4):
    """arXiv 1807.06514, equations 1 to 4, joined as in the authors' code."""
    channel = conv(pool(x), p, "channel_att.fc1")
    channel = relu(batch_norm(channel, p, "channel_att.bn1", training))
    channel = conv(channel, p, "channel_att.fc_final")
    spatial = conv(x, p, "spatial_att.conv_reduce")
    spatial = relu(batch_norm(spatial, p, "spatial_att.bn_reduce", training))
    for i in (1, 2):
        spatial = conv(spatial, p, f"spatial_att.conv{i}", padding=dilation, dilation=dilation)
        spatial = relu(batch_norm(spatial, p, f"spatial_att.bn{i}", training))
    spatial = conv(spatial, p, "spatial_att.conv_final")
    return (1.0 + sigmoid(combine(channel, spatial))) * x


CASES = [
    Case("BAM", bam, {"reduction": 4}, (3, 8, 10, 9), applied=scaled, maps=EVERY),
    Case(
        "BAM",
        partial(bam, combine=np.add, dilation=2),
        {"reduction": 2, "combine": "add", "dilation_val": 2},
        (2, 4, 5, 9),
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.BAM(16, combine="multiply"), r"combine must be one of \['add', 'mul'\], but got 'multiply'"),
    (lambda: pa.BAM(8), "channels=8 // reduction=16"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ('channel * spatial if self.combine == "mul"', 'channel * spatial if self.combine == "add"'),
    ("1.0 + F.sigmoid(channel", "F.sigmoid(channel"),
    ("dilation=dilation_val", "dilation=max(dilation_val - 1, 1)"),
]


class TestBAM(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_narrow_layers_have_a_least_width():
    """channels // reduction would be 0."""
    layer = pa.BAM(8, min_hidden=3)
    widths = {value.shape[0] for key, value in layer.state_dict().items() if key.endswith("fc1.weight")}
    assert widths == {3}
