"""The layers of a transformer."""

import numpy as np
import paddle
import pytest

import paddle_attention as pa

# What is there, and what a mutant has instead.
MUTANTS = [
    (
        "paddle.stack([paddle.sin(angle), paddle.cos(angle)], axis=2)",
        "paddle.stack([paddle.cos(angle), paddle.sin(angle)], axis=2)",
    ),
    ('"cross_attn": "multihead_attn"', '"cross_attn": "cross_attn"'),
]


@pytest.mark.parametrize("norm_first", [True, False])
def test_maps_of_the_decoder(norm_first):
    """The memory weighed with the cross map, and the target with its own, give the layer's output."""
    layer = pa.TransformerDecoderLayer(8, 2, 16, dropout=0.0, norm_first=norm_first)
    target, memory = paddle.randn([2, 4, 8]), paddle.randn([2, 3, 8])
    maps = layer.attention_maps(target, memory, tgt_is_causal=True)

    def attend(attention, weights, value):
        value = attention.v_proj(value).reshape([2, -1, 2, 4]).transpose([0, 2, 1, 3])
        return attention.out_proj(paddle.matmul(weights, value).transpose([0, 2, 1, 3]).flatten(2))

    x = layer.norm1(target) if norm_first else target
    x = target + attend(layer.self_attn, maps["self"], x)
    x = x if norm_first else layer.norm1(x)
    x = x + attend(layer.cross_attn, maps["cross"], memory)
    x = x if norm_first else layer.norm2(x)
    hidden = layer.linear2(paddle.nn.functional.relu(layer.linear1(layer.norm3(x) if norm_first else x)))
    y = x + hidden if norm_first else layer.norm3(x + hidden)
    expected = layer(target, memory, tgt_is_causal=True)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_stacks_of_layers():
    encoder = paddle.nn.TransformerEncoder(pa.TransformerEncoderLayer(8, 2, 16, norm_first=True), 2)
    assert encoder(paddle.randn([1, 3, 8])).shape == [1, 3, 8]
    assert encoder.layers[1].normalize_before
    decoder = paddle.nn.TransformerDecoder(pa.TransformerDecoderLayer(8, 2, 16), 2)
    assert decoder(paddle.randn([1, 3, 8]), paddle.randn([1, 4, 8])).shape == [1, 3, 8]


def test_positional_encoding():
    layer = pa.PositionalEncoding(6, dropout=0.0, max_len=50)
    y = layer(paddle.zeros([2, 9, 6])).numpy()
    for p in range(9):
        for i in range(3):
            angle = p / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(y[:, p, 2 * i], np.sin(angle), atol=1e-6)
            np.testing.assert_allclose(y[:, p, 2 * i + 1], np.cos(angle), atol=1e-6)
    assert not layer.state_dict()
    with pytest.raises(ValueError, match="max_len=50, but got a sequence of 51"):
        layer(paddle.zeros([1, 51, 6]))
