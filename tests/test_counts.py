"""Operation counts of shapes, against counting one by one."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_attention.analysis import counts

SMALL = st.integers(1, 4)


@settings(deadline=None, max_examples=60)
@given(
    n=SMALL,
    groups=st.sampled_from([1, 2]),
    width=SMALL,
    filters=SMALL,
    size=st.integers(1, 3),
    map_size=SMALL,
)
def test_convolution(n, groups, width, filters, size, map_size):
    """Every output position of every filter multiplies all weights of its window."""
    out_channels = filters * groups
    x = (n, width * groups, map_size + size - 1, map_size + size - 1)
    weight, out = (out_channels, width, size, size), (n, out_channels, map_size, map_size)
    one_by_one = 0
    for _ in itertools.product(range(n), range(out_channels), range(map_size), range(map_size)):
        one_by_one += width * size * size
    assert counts.convolution(x, weight, None, out=out) == one_by_one
    # The transposed convolution of these weights goes the other way.
    assert counts.transposed_convolution(out, weight, out=x) == one_by_one


@pytest.mark.parametrize("transpose_x", [False, True])
@pytest.mark.parametrize("transpose_y", [False, True])
def test_product(transpose_x, transpose_y):
    x = (2, 5, 3) if transpose_x else (2, 3, 5)
    y = (2, 7, 5) if transpose_y else (2, 5, 7)
    assert counts.product(x, y, transpose_x, transpose_y, out=(2, 3, 7)) == 2 * 3 * 5 * 7
    assert counts.product((5,), (5,), out=()) == 5
    assert counts.fully_connected((4, 3), (3, 6), None, out=(4, 6)) == 4 * 3 * 6


@pytest.mark.parametrize(
    ("equation", "operands", "expected"),
    [
        ("ij,jk->ik", [(3, 5), (5, 7)], 105),
        ("nchw,nhw -> nc", [(2, 3, 4, 5), (2, 4, 5)], 120),
        ("i,j,k->ijk", [(2,), (3,), (4,)], 48),
    ],
)
def test_einstein_sum(equation, operands, expected):
    assert counts.einstein_sum(operands, equation, out=()) == expected


def test_number_by_number():
    shape = (2, 3, 4)
    assert counts.read(shape, out=(1,)) == counts.written(None, out=shape) == math.prod(shape)
