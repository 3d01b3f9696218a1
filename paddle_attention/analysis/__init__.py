"""Measure networks: parameters and multiply-adds, beside what the papers print."""

from .complexity import Complexity, count_complexity
from .countings import COUNTINGS
from .published import PUBLISHED, Published

__all__ = ["COUNTINGS", "PUBLISHED", "Complexity", "Published", "count_complexity"]
