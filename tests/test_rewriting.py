"""Exported graphs in which attention reads the smaller map before a 1x1 convolution."""

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_attention import CBAM, ECA, CoordAttention, GCBlock, SEBlock
from paddle_attention.deploy import (
    InferencePredictor,
    export,
    export_inference_model,
    graph_patterns,
    rewriting,
)

pytestmark = pytest.mark.skipif(paddle.__version__ < "3", reason="Paddle 2 has no such programs")


class Block(nn.Layer):
    """A bottleneck: ``relu(attention(norm(conv(o))) + x)``."""

    def __init__(self, attention, conv=None, norm=True, bias=False, between=None):
        super().__init__()
        self.reduce = nn.Conv2D(32, 8, 1)
        self.conv = conv or nn.Conv2D(8, 32, 1, bias_attr=None if bias else False)
        self.norm = nn.BatchNorm2D(32) if norm else nn.Identity()
        self.between = between or nn.Identity()
        self.attention = attention

    def forward(self, x):
        y = self.between(self.norm(self.conv(nn.functional.relu(self.reduce(x)))))
        return nn.functional.relu(self.attention(y) + x)


class Network(nn.Layer):
    def __init__(self, block):
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2D(3, 32, 3, padding=1), block, nn.Linear(32, 5)

    def forward(self, x):
        return self.fc(self.block(self.stem(x)).mean([2, 3]))


def varied(network, seed=0):
    """Random values for all parameters and statistics: zeros and ones would hide a wrong fold."""
    random = np.random.RandomState(seed)
    for name, value in network.state_dict().items():
        numbers = random.standard_normal(value.shape) * (0.5 if value.ndim < 2 else 0.3)
        value.set_value((np.abs(numbers) + 0.5 if "_variance" in name else numbers).astype("float32"))
    network.eval()
    return network


CASES = {
    # name: block, places that change
    "SE": (lambda: Block(SEBlock(32, reduction=4)), 1),
    "SE without biases": (lambda: Block(SEBlock(32, reduction=4, bias=False)), 1),
    "SE after a biased convolution": (lambda: Block(SEBlock(32, reduction=4), norm=False, bias=True), 1),
    "SE after both": (lambda: Block(SEBlock(32, reduction=4), bias=True), 1),
    "SE after neither": (lambda: Block(SEBlock(32, reduction=4), norm=False), 1),
    "GC: mask, context and shortcut": (lambda: Block(GCBlock(32, ratio=0.25)), 3),
    "GC by averages": (lambda: Block(GCBlock(32, ratio=0.25, pooling_type="avg")), 2),
    "GC that multiplies": (lambda: Block(GCBlock(32, ratio=0.25, fusion_types="channel_mul")), 2),
    "Coord": (lambda: Block(CoordAttention(32)), 1),
    "CBAM: the average, not the maximum": (lambda: Block(CBAM(32, reduction=4)), 1),
    "ECA reads channels, not by a 1x1 convolution": (lambda: Block(ECA(32)), 0),
    "a ReLU between": (lambda: Block(SEBlock(32, reduction=4), between=nn.ReLU()), 0),
    "a 3x3 convolution": (lambda: Block(SEBlock(32, reduction=4), conv=nn.Conv2D(8, 32, 3, padding=1)), 0),
    "groups": (lambda: Block(SEBlock(32, reduction=4), conv=nn.Conv2D(8, 32, 1, groups=4)), 0),
    "no fewer channels": (
        lambda: Block(
            SEBlock(32, reduction=4), conv=nn.Sequential(nn.Conv2D(8, 32, 1), nn.ReLU(), nn.Conv2D(32, 32, 1))
        ),
        0,
    ),
}


def run(network, directory, shape=(3, 12, 20), onednn=(True,), **options):
    """The exported network, by the graph that was made first: none that stands in for a wrong one."""
    lines = []
    export_inference_model(
        network, str(directory), shape, None, report=lines.append, onednn=onednn, **options
    )
    assert not any("the graph as it is" in line for line in lines)
    return InferencePredictor(str(directory), onednn=onednn[0])


@pytest.fixture
def counts(monkeypatch):
    """How many places every rewriting changes."""
    found, rewrite = [], rewriting.rewrite_saved

    def counted(path):
        found.append(rewrite(path))
        return found[-1]

    monkeypatch.setattr(export, "rewrite_saved", counted)
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers(tmp_path, counts, name):
    make, expected = CASES[name]
    network = varied(Network(make()))
    predictor = run(network, tmp_path / "rewritten")
    assert counts == [expected]
    images = np.random.RandomState(1).standard_normal([3, 3, 12, 20]).astype("float32")
    want = network(paddle.to_tensor(images)).numpy()
    assert np.abs(predictor(images) - want).max() < 2e-6 * np.abs(want).max()


def test_rewriting_can_be_left_out(tmp_path):
    """The program is another one, also where its numbers are the same."""
    network = varied(Network(Block(GCBlock(32, ratio=0.25))))
    for rewrite in (True, False):
        run(network, tmp_path / str(rewrite), rewrite=rewrite)
    texts = [(tmp_path / str(rewrite) / "inference.json").read_text() for rewrite in (True, False)]
    assert texts[0] != texts[1]


def test_free_sizes(tmp_path):
    network = varied(Network(Block(SEBlock(32, reduction=4))))
    export_inference_model(network, str(tmp_path), [3, None, None], None, report=lambda line: None)
    images = np.random.RandomState(1).standard_normal([2, 3, 9, 14]).astype("float32")
    want = network(paddle.to_tensor(images)).numpy()
    assert np.abs(InferencePredictor(str(tmp_path))(images) - want).max() < 2e-6 * np.abs(want).max()


def test_a_shortcut_that_is_read_elsewhere(tmp_path, counts):
    """``y`` is read twice: the addition stays where it is."""

    class Twice(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv, self.vector = nn.Conv2D(32, 32, 1), nn.Conv2D(32, 32, 1)

        def forward(self, x):
            y = self.conv(x)
            return (y + self.vector(nn.functional.adaptive_avg_pool2d(x, 1))) + x + nn.functional.relu(y)

    network = varied(Network(Twice()))
    images = np.random.RandomState(1).standard_normal([1, 3, 12, 20]).astype("float32")
    want = network(paddle.to_tensor(images)).numpy()
    assert np.abs(run(network, tmp_path)(images) - want).max() < 2e-6 * np.abs(want).max()
    assert counts == [0]


@pytest.mark.parametrize("missing", ["weight_attr", "bias_attr"])
def test_a_normalisation_without_scale_or_shift_leaves_the_others(tmp_path, counts, missing):
    """Paddle Inference's oneDNN cannot open such a network, rewritten or not."""
    block = Block(SEBlock(32, reduction=4))
    second = Block(SEBlock(32, reduction=4))
    second.norm = nn.BatchNorm2D(32, **{missing: False})
    network = varied(Network(nn.Sequential(block, second)))
    run(network, tmp_path, onednn=(False,))
    assert counts == [1]


class MinusOne(nn.Layer):
    """-1 times a weighted average, where -1 is also the product of an unknown height and a width of 1."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.kernel = (
            nn.Conv2D(3, 8, 3, padding=1),
            nn.Conv2D(8, 32, 1),
            nn.Conv2D(32, 4, 1),
        )

    def forward(self, x):
        y = self.conv(nn.functional.relu(self.stem(x)))
        weights = nn.functional.softmax(y.mean(1, keepdim=True).reshape([0, 1, -1])).reshape([0, 1, -1, 1])
        return self.kernel(nn.functional.adaptive_avg_pool2d(y * weights, 1) * -1.0).flatten(1)


def test_an_unknown_size_is_no_number(tmp_path, counts):
    run(varied(MinusOne()), tmp_path, shape=(3, None, 1))
    assert counts == [0]


class Norms(nn.Layer):
    """One convolution, two normalisations: their averages are of one map, but not of one linear form."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2D(8, 32, 1), nn.BatchNorm2D(32), nn.BatchNorm2D(32)
        self.stem, self.kernel = nn.Conv2D(3, 8, 3), nn.Conv2D(32, 4, 1)

    def forward(self, x):
        y = self.conv(nn.functional.relu(self.stem(x)))
        parts = [nn.functional.adaptive_avg_pool2d(norm(y), 1) for norm in (self.first, self.second)]
        return self.kernel(paddle.concat(parts, axis=2)).flatten(1)


class Weighted(nn.Layer):
    """GCBlock's weighted average, of a pooled map."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.mask = (
            nn.Conv2D(3, 8, 3, padding=1),
            nn.Conv2D(8, 32, 1),
            nn.Conv2D(32, 1, 1),
        )
        self.kernel = nn.Conv2D(32, 4, 1)

    def forward(self, x):
        y = nn.functional.avg_pool2d(self.conv(nn.functional.relu(self.stem(x))), 2)
        size = y.shape[2] * y.shape[3]
        weights = nn.functional.softmax(self.mask(y).flatten(2), axis=-1).reshape([-1, 1, *y.shape[2:]])
        return self.kernel(nn.functional.adaptive_avg_pool2d(y * weights, 1) * float(size)).flatten(1)


class ScalarBias(nn.Layer):
    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2D(3, 8, 3), nn.Conv2D(8, 32, 1, bias_attr=False)
        self.bias, self.kernel = self.create_parameter([1]), nn.Conv2D(32, 4, 1)

    def forward(self, x):
        y = self.conv(nn.functional.relu(self.stem(x))) + self.bias.reshape([1, 1, 1, 1])
        return self.kernel(nn.functional.adaptive_avg_pool2d(y, 1)).flatten(1)


@pytest.mark.parametrize("make", [Norms, Weighted, ScalarBias])
def test_forms_that_look_alike(tmp_path, make):
    """The rewritten program agrees by itself, without the plain one to fall back on."""
    network = varied(make())
    predictor = run(network, tmp_path)
    images = np.random.RandomState(1).standard_normal([1, 3, 12, 20]).astype("float32")
    want = network(paddle.to_tensor(images)).numpy()
    assert np.abs(predictor(images) - want).max() < 2e-6 * np.abs(want).max()


def test_a_graph_that_cannot_be_rewritten_is_left(tmp_path, monkeypatch):
    def fail(path):
        raise RuntimeError("no such operation")

    lines = []
    monkeypatch.setattr(export, "rewrite_saved", fail)
    network = varied(Network(Block(SEBlock(32, reduction=4))))
    export_inference_model(network, str(tmp_path), [3, 12, 20], None, report=lines.append, onednn=(True,))
    assert lines[0] == ("export check: the graph as it is, since it cannot be rewritten: no such operation")


def test_dynamic_mode_comes_back(tmp_path):
    run(varied(Network(Block(SEBlock(32)))), tmp_path)
    assert paddle.in_dynamic_mode()


def test_a_wrong_rewriting_is_not_used(tmp_path, monkeypatch):
    """The graph as it is, and a line that says so."""
    network, lines = varied(Network(Block(SEBlock(32, reduction=4)))), []

    def wrong(self, kernel):
        matrix, shift = after(self, kernel)
        return matrix * 2.0, shift

    after = graph_patterns.Linear.after
    monkeypatch.setattr(graph_patterns.Linear, "after", wrong)
    export_inference_model(network, str(tmp_path), [3, 12, 20], None, report=lines.append, onednn=(True,))
    assert any("the graph as it is, since the rewritten one fails" in line for line in lines)
    images = np.random.RandomState(1).standard_normal([1, 3, 12, 20]).astype("float32")
    want = network(paddle.to_tensor(images)).numpy()
    assert np.abs(InferencePredictor(str(tmp_path))(images) - want).max() < 2e-6 * np.abs(want).max()
