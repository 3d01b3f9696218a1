"""python tools/complexity.py [--write FILE]: parameters and multiply-adds, ours beside the papers'.

Two Markdown tables: what papers print beside what this library's networks have, counted the paper's
way, and every named network at 224 x 224. --write puts them into a document between its markers.
"""

import argparse
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from paddle_attention.cli.main import set_threads  # noqa: E402


def measure(arch, size):
    """:class:`Complexity` of an ``Arch`` section at ``size`` x ``size``."""
    from paddle.utils import unique_name

    from paddle_attention import analysis, ppcls

    ppcls.init_logger()
    with unique_name.guard():  # some families give their parameters fixed names
        return analysis.count_complexity(ppcls.build_network({"Arch": dict(arch)}), [3, size, size])


def published_row(entry):
    """The cells of one published network."""
    from paddle_attention.analysis.published import rounded

    found = measure(entry.arch, entry.size)
    cells, agrees = [], entry.agrees(found)
    for printed, value, fits in zip((entry.params, entry.flops), entry.scaled(found), agrees, strict=True):
        if printed is None:
            cells += ["-", "-"]
        else:
            ours = rounded(value, printed)
            cells += [printed, ours if fits else f"**{ours}**"]
    remark = "" if all(agrees) else entry.remark.format(macs=found.flops() / 1e9)
    yaml = entry.arch["name"] if entry.arch["name"] != "AttentionNet" else entry.arch["backbone"]
    options = [k for k in ("stride_in_1x1", "use_first_short_conv") if k in entry.arch]
    units = [", 2^20 and 2^30"] * entry.binary + [", with statistics"] * entry.statistics
    notes = "; ".join([entry.counting + "".join(units), *options])
    return [f"{entry.paper}, {entry.table}", entry.title, f"`{yaml}`", *cells, notes, remark], agrees


def tables(published=None, names=None):
    """The document's text; by default of everything."""
    from paddle_attention import analysis, list_networks
    from paddle_attention.analysis import markdown_table
    from paddle_attention.networks import get_network

    published = analysis.PUBLISHED if published is None else published
    names = list_networks() if names is None else names
    rows, agreements = [], []
    for entry in published:
        row, agrees = published_row(entry)
        rows.append(row)
        agreements += [
            fits for fits, p in zip(agrees, (entry.params, entry.flops), strict=True) if p is not None
        ]
        print(*row, sep=" | ", file=sys.stderr, flush=True)
    header = [
        "paper",
        "network",
        "YAML",
        "M params",
        "ours",
        "GFLOPs",
        "ours",
        "counted",
        "where they differ",
    ]
    text = [
        f"{sum(agreements)} of {len(agreements)} printed numbers agree to the last digit.",
        "",
        markdown_table(header, rows),
    ]
    rows = []
    for name in names:
        found, preset = measure({"name": name}, 224), get_network(name)
        options = ", ".join(f"{k} {v}" for k, v in preset.options.items())
        rows.append(
            [name, preset.backbone, options, f"{found.params / 1e6:.3f}", f"{found.flops() / 1e9:.3f}"]
        )
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    return "\n".join(text), markdown_table(["network", "backbone", "options", "M params", "GFLOPs"], rows)


def _chosen(titles):
    """The published networks of these titles; all without."""
    from paddle_attention.analysis import PUBLISHED

    return [entry for entry in PUBLISHED if titles is None or entry.title in titles]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", metavar="FILE", help="the document to put the tables into")
    parser.add_argument("--published", nargs="+", metavar="TITLE", help="rows of the papers; default: all")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="default: all")
    options = parser.parse_args()
    if options.write and (options.networks or options.published):
        parser.error("--write needs all rows: leave --published and --networks out")
    set_threads()
    texts = tables(_chosen(options.published), options.networks)
    print("\n\n".join(texts))
    if options.write:
        from paddle_attention.analysis import write_between_markers

        write_between_markers(options.write, dict(zip(("published", "networks"), texts, strict=True)))


if __name__ == "__main__":
    main()
