"""Tables in Markdown documents, which are written again when they are measured again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..files import write_atomically


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table of strings and numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def write_between_markers(path: str, texts: Mapping[str, str]) -> None:
    """Put each text of ``{marker: text}`` between ``<!-- marker -->`` and ``<!-- end of marker -->`` in a document.

    Raises:
        ValueError: naming the markers that the document lacks; nothing is written.
    """
    with open(path, encoding="utf-8") as file:
        document = file.read()
    for marker, text in texts.items():
        begin, end = f"<!-- {marker} -->\n", f"<!-- end of {marker} -->"
        if begin not in document or end not in document:
            raise ValueError(f"{path} has no lines {begin.strip()!r} and {end!r}; nothing was written")
        before, _, rest = document.partition(begin)
        document = before + begin + "\n" + text + "\n\n" + end + rest.partition(end)[2]
    write_atomically(path, lambda file: file.write(document.encode("utf-8")))
