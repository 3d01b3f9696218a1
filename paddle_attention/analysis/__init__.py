"""Measure networks: parameters and multiply-adds, beside what the papers print."""

from .complexity import COUNTINGS, Complexity, count_complexity
from .published import PUBLISHED, Published

__all__ = ["COUNTINGS", "PUBLISHED", "Complexity", "Published", "count_complexity"]
