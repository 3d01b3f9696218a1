"""Markdown for the documents that the tools write."""


def table(header, rows):
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def write(path, texts):
    """Put each text of ``{marker: text}`` between its markers in a document."""
    with open(path, encoding="utf-8") as file:
        document = file.read()
    for marker, text in texts.items():
        begin, end = f"<!-- {marker} -->\n", f"<!-- end of {marker} -->"
        if begin not in document or end not in document:
            raise SystemExit(f"{path} has no lines {begin.strip()!r} and {end!r}; nothing was written")
        before, _, rest = document.partition(begin)
        document = before + begin + "\n" + text + "\n\n" + end + rest.partition(end)[2]
    with open(path, "w", encoding="utf-8") as file:
        file.write(document)
