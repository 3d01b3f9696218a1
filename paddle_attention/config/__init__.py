"""Reading and checking of PaddleClas YAMLs; nothing in them is run, and nothing is ignored."""

from .building import arguments_by_name, build_by_name, single_item
from .check import VALIDATOR, check_config, move_class_num, section_hashes
from .errors import ConfigError, DataError, short, unsupported
from .reading import Config, apply_override, parse_value, read_config

__all__ = [
    "VALIDATOR",
    "Config",
    "ConfigError",
    "DataError",
    "apply_override",
    "arguments_by_name",
    "build_by_name",
    "check_config",
    "move_class_num",
    "parse_value",
    "read_config",
    "section_hashes",
    "short",
    "single_item",
    "unsupported",
]
