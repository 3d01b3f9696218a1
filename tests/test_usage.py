"""What is called flat: the use of descriptors, threads and memory over a long run."""

import pytest

from paddle_attention.analysis import require_flat


def looks(*last, number=90):
    """Usage that goes evenly from (18, 6, 1000000) to ``last``."""
    first = (18, 6, 1_000_000)
    return [
        tuple(a + (b - a) * i // (number - 1) for a, b in zip(first, last, strict=True))
        for i in range(number)
    ]


def test_what_does_not_grow_is_flat():
    assert require_flat(looks(19, 7, 1_050_000)) == "1.033 of the early memory, 7 threads, 19 descriptors"


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ((28, 6, 1_000_000), "descriptors: 21 early, 28 late"),
        ((18, 9, 1_000_000), "threads: 6 early, 9 late"),
        ((18, 6, 1_200_000), "memory: 1065168 kB early, 1200000 kB late"),
    ],
)
def test_growth_is_an_error(last, message):
    with pytest.raises(AssertionError, match=message):
        require_flat(looks(*last))


def test_too_few_looks_say_nothing():
    with pytest.raises(AssertionError, match="only 29 looks"):
        require_flat(looks(18, 6, 1_000_000, number=29))
