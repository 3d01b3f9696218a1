"""Look into networks: what they attend to, what they cost beside what the papers print, and what a long run uses."""

from .attention_maps import AttentionMap, attention_layers, record_maps
from .cam import Faithfulness, class_activation, faithfulness, last_feature_layer
from .comparison import paired_interval
from .complexity import Complexity, count_complexity, work_by_layer
from .countings import COUNTINGS
from .excitation import Excitation, excitation_csv, record_excitation
from .flow import Node, trace_flow
from .flow_svg import flow_svg
from .markdown import markdown_table, write_between_markers
from .published import PUBLISHED, Published
from .summary import Part, summarize, summary_lines
from .usage import read_usage, require_flat

__all__ = [
    "COUNTINGS",
    "PUBLISHED",
    "AttentionMap",
    "Complexity",
    "Excitation",
    "Faithfulness",
    "Node",
    "Part",
    "Published",
    "attention_layers",
    "class_activation",
    "count_complexity",
    "excitation_csv",
    "faithfulness",
    "flow_svg",
    "last_feature_layer",
    "markdown_table",
    "paired_interval",
    "read_usage",
    "record_excitation",
    "record_maps",
    "require_flat",
    "summarize",
    "summary_lines",
    "trace_flow",
    "work_by_layer",
    "write_between_markers",
]
