"""Measure: parameters and multiply-adds beside what the papers print, and what a long run uses; write it down."""

from .complexity import Complexity, count_complexity
from .countings import COUNTINGS
from .markdown import markdown_table, write_between_markers
from .published import PUBLISHED, Published
from .usage import read_usage, require_flat

__all__ = [
    "COUNTINGS",
    "PUBLISHED",
    "Complexity",
    "Published",
    "count_complexity",
    "markdown_table",
    "read_usage",
    "require_flat",
    "write_between_markers",
]
