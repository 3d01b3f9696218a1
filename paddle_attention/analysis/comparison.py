"""Whether one network is better than another, from a few runs of each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# 97.5% quantiles of Student's t, by degrees of freedom from 1 on; beyond, the normal distribution's is near.
_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)


def paired_interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """The mean of paired differences, and the half width of its 95% confidence interval.

    Each difference is between two runs with the same seed; the interval is Student's,
    t s / sqrt(n). With one difference there is no interval, and the second is None.

    Raises:
        ValueError: if there is none, or one is not finite.
    """
    differences = [float(value) for value in differences]
    if not differences or not all(map(math.isfinite, differences)):
        raise ValueError(f"needs finite differences, but got {differences}")
    mean, n = statistics.fmean(differences), len(differences)
    if n == 1:
        return mean, None
    t = _T[n - 2] if n - 2 < len(_T) else 1.96 + 2.4 / (n - 1)
    return mean, t * statistics.stdev(differences) / math.sqrt(n)
