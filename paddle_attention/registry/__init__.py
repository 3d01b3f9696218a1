"""The registry of attention mechanisms. It knows none: they register themselves where they are written."""

from .core import (
    DOMAINS,
    AttentionEntry,
    attention_arguments,
    build_attention,
    check_arguments,
    get_attention,
    list_attentions,
    register_attention,
)

__all__ = [
    "DOMAINS",
    "AttentionEntry",
    "attention_arguments",
    "build_attention",
    "check_arguments",
    "get_attention",
    "list_attentions",
    "register_attention",
]
