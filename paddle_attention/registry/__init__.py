"""The registry of attention mechanisms, with the built-in ones registered."""

from . import catalog  # noqa: F401  (registers the built-in mechanisms)
from .core import (
    DOMAINS,
    AttentionEntry,
    build_attention,
    check_arguments,
    get_attention,
    list_attentions,
    register_attention,
)

__all__ = [
    "DOMAINS",
    "AttentionEntry",
    "build_attention",
    "check_arguments",
    "get_attention",
    "list_attentions",
    "register_attention",
]
