"""Reading and checking of PaddleClas YAMLs; nothing in them is run, and nothing is ignored."""

from .building import arguments_by_name, build_by_name, single_item
from .check import VALIDATOR, check_config, move_class_num, section_hashes
from .errors import ConfigError, DataError, short, unsupported
from .reading import Config, apply_override, parse_value, read_config
from .shipped import find_config, shipped_configs

__all__ = [
    "VALIDATOR",
    "Config",
    "ConfigError",
    "DataError",
    "apply_override",
    "arguments_by_name",
    "build_by_name",
    "check_config",
    "find_config",
    "move_class_num",
    "parse_value",
    "read_config",
    "section_hashes",
    "shipped_configs",
    "short",
    "single_item",
    "unsupported",
]
