"""Measure the shape of the code: longest functions and files, repeated runs of lines, imports that may not be.

    python tools/structure.py           # what is longest, and whatever breaks a rule
    python tools/structure.py --all     # every function and file above half of its limit

The limits are 50 lines for a function (docstring and signature not counted), 300 for a file
that is not one table, and five equal lines in two places (imports not counted). The exit status
is 1 if a rule is broken that is not listed in ``EXCEPTIONS``.
"""

import argparse
import ast
import collections
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "paddle_attention"
FUNCTION, FILE, RUN = 50, 300, 6
# Files that are longer, and why.
EXCEPTIONS = {
    "paddle_attention/analysis/published.py": "one table",
}


def functions(path):
    """``(lines, name)`` of every function, by the lines of its body."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body:
                yield body[-1].end_lineno - body[0].lineno + 1, f"{path.relative_to(ROOT)}:{node.name}"


def code_lines(path):
    """``(number, text)`` of the lines that say something: no imports, comments, docstrings or lone brackets."""
    text = path.read_text(encoding="utf-8")
    left_out = set()
    for node in ast.walk(ast.parse(text)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out.update(range(node.lineno, node.end_lineno + 1))
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if number not in left_out and len(line) > 3 and not line.startswith("#"):
            yield number, line


def repeated_runs(paths):
    """``(place, other place, first line)`` of equal runs of six lines."""
    seen = {}
    for path in paths:
        lines, last = list(code_lines(path)), -RUN
        for i in range(len(lines) - RUN + 1):
            run = tuple(text for _, text in lines[i : i + RUN])
            place = f"{path.relative_to(ROOT)}:{lines[i][0]}"
            if run in seen and i >= last + RUN:
                last = i
                yield seen[run], place, run[0]
            seen.setdefault(run, place)


def private_imports(paths):
    """``place: name`` of private names of another room."""
    for path in paths:
        room = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level >= 2:
                other = (node.module or "").split(".")[0]
                for alias in node.names:
                    parts = [*(node.module or "").split("."), alias.name]
                    if other != room and any(p.startswith("_") and not p.startswith("__") for p in parts):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}: {'.'.join(parts)}"


def crossing_imports():
    """``place: module`` of tests that import from tools, and of tools that import from tests."""
    for folder, other in (("tests", "tools"), ("tools", "tests")):
        foreign = {path.stem for path in (ROOT / other).iterdir() if path.suffix == ".py" or path.is_dir()}
        foreign -= {path.stem for path in (ROOT / folder).rglob("*.py")}
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module]
                for name in names:
                    if name.split(".")[0] in foreign | {other}:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}: {name}"


def broken_rules():
    """A line for everything that breaks a rule."""
    paths = sorted(PACKAGE.rglob("*.py"))
    found = [
        f"{name} has {n} lines, more than {FUNCTION}"
        for p in paths
        for n, name in functions(p)
        if n > FUNCTION
    ]
    for path in paths:
        name, n = str(path.relative_to(ROOT)), len(path.read_text(encoding="utf-8").splitlines())
        if n > FILE and name not in EXCEPTIONS:
            found.append(f"{name} has {n} lines, more than {FILE}")
        if n <= FILE and name in EXCEPTIONS:
            found.append(f"{name} is no exception any more: it has {n} lines")
    found += [f"{a} and {b} repeat {RUN} lines from {text!r}" for a, b, text in repeated_runs(paths)]
    found += [f"{text}: tests and tools import the package only" for text in crossing_imports()]
    return found + [f"{text}: a private name of another room" for text in private_imports(paths)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="list more than the longest")
    options = parser.parse_args()
    paths = sorted(PACKAGE.rglob("*.py"))
    by_function = sorted((x for p in paths for x in functions(p)), reverse=True)
    by_file = sorted(
        ((len(p.read_text(encoding="utf-8").splitlines()), str(p.relative_to(ROOT))) for p in paths),
        reverse=True,
    )
    for what, items, limit in (("function", by_function, FUNCTION), ("file", by_file, FILE)):
        shown = [item for item in items if item[0] > limit / 2] if options.all else items[:5]
        print(f"longest {what}s (limit {limit}):")
        for lines, name in shown:
            print(f"  {lines:4d}  {name}{'  # ' + EXCEPTIONS[name] if name in EXCEPTIONS else ''}")
    rooms = collections.Counter(p.relative_to(PACKAGE).parts[0] for p in paths)
    print(f"{len(paths)} files in {len(rooms)} rooms")
    rules = broken_rules()
    print("\n".join(rules) or "no rule is broken")
    return bool(rules)


if __name__ == "__main__":
    sys.exit(main())
