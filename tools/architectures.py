"""python tools/architectures.py [--results FILE] [--write FILE] [NAME ...]: plain `attention: SE` in every PaddleClas network.

Every network that PaddleClas exports (PADDLECLAS_HOME, else the installed one) is built, given SE at its
default place, and run; with --train also trained for one step and with --export exported and compared
with the live network. A network is checked in a process of its own; --results is gone on with.
"""

import argparse
import collections
import contextlib
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from backbone_matrix import export, reason, train_step, vary_constants  # noqa: E402

from paddle_attention.cli.main import run_tool, set_threads  # noqa: E402
from paddle_attention.cli.parser import positive  # noqa: E402
from paddle_attention.interrupt import end_with_parent  # noqa: E402

_MARKER = "architectures"
_BARE_FAILS = "without attention, too"
STAGES = ("bare", "accepted", "train", "export", "export, oneDNN")


def names():
    """All networks that PaddleClas exports, but for those of this library: the first of every file, then the second ones."""
    from ppcls.arch import backbone

    from paddle_attention.ppcls import backbones as own

    files = collections.defaultdict(list)
    for name, network in sorted(vars(backbone).items()):
        if own.is_network(network) and name not in own.__all__:
            files[network.__module__].append(name)
    turns = itertools.zip_longest(*files.values())
    return [name for turn in turns for name in turn if name is not None]


def paddle_names():
    """New names of parameters: some networks give theirs fixed ones."""
    import paddle

    return paddle.utils.unique_name.guard()


def build(name, attention):
    """The network with what a YAML says."""
    import paddle

    from paddle_attention import ppcls

    with paddle_names():
        paddle.seed(0)
        arch = {"name": "AttentionNet", "backbone": name, "attention": attention}
        return ppcls.build_network({"Arch": arch})


def check(name, stages, path):
    """Write ``{stage: 'ok' or the reason, 'at', 'layers', 'first'}`` to a file after every stage: a later one may crash."""
    from paddle_attention import describe_blocks
    from paddle_attention.insertion.records import records

    cells, stage = {}, "accepted"

    def tell(stage, value="ok"):
        cells[stage] = value
        with open(path, "w", encoding="utf-8") as file:
            json.dump(cells, file)

    try:
        model = build(name, "SE")
        (call,) = records(model)
        cells.update(layers=len(call.insertions), first=call.insertions[0].layer)
        cells["at"] = (
            "block" if call.insertions[0].layer in {b.name for b in describe_blocks(model)} else "residual"
        )
        tell(stage)
        shape = _shape(model)
        if "train" in stages:
            stage = "train"
            missing = train_step(model, shape)
            tell(stage, f"no gradient reaches {missing[0]}" if missing else "ok")
        if "export" in stages:
            vary_constants(model.state_dict())
            stage = "export"
            for stage, why in _exports(name, model, shape):
                tell(stage, why)
    except Exception as error:  # of any kind: it is the cell's content
        # A network that cannot be built, or does not run, is no matter of attention.
        bare = "does not run on a trial image" in str(error) or (stage == "accepted" and not _is_built(name))
        tell("bare" if bare else stage, reason(error))


def build_bare(name):
    """The network as PaddleClas makes it."""
    from ppcls.arch import backbone

    with paddle_names():
        return getattr(backbone, name)()


def _is_built(name):
    try:
        build_bare(name)
    except Exception:
        return False
    return True


def _exports(name, model, shape):
    """The cells of the export; one run for both where the engine can do both, else that of the bare network, too."""
    try:
        export(model, shape)
        yield "export", "ok"
        yield "export, oneDNN", "ok"
    except Exception as error:
        export(model, shape, (False,))
        yield "export", "ok"
        why = reason(error)
        yield "export, oneDNN", why
        if not _exports_bare(name, shape):
            yield "export, oneDNN", f"{_BARE_FAILS}: {why}"


def _exports_bare(name, shape):
    """Whether the network without attention can be exported for the accelerated engine."""
    network = build_bare(name)
    train_step(network, shape)
    try:
        export(network, shape, (True,))
    except Exception:
        return False
    return True


def _shape(model):
    from paddle_attention.insertion.trace import trace_network

    return trace_network(model).input_shape


def run(names, stages, limit, workers):
    """``(name, cells)`` as they end, each :func:`check` in a process of its own: a crash there is a cell, too.

    The processes begin with everything imported, and are of this thread, since Paddle's dynamic mode is.
    """
    context, waiting, running = multiprocessing.get_context("fork"), list(reversed(names)), {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.pop()
                path = os.path.join(folder, f"{name}.json")
                process = context.Process(target=_quietly, args=(name, stages, path))
                process.start()
                running[process.sentinel] = (name, process, path, time.monotonic() + limit)
            multiprocessing.connection.wait(list(running), timeout=0.2)
            for sentinel, (name, process, path, end) in list(running.items()):
                late = process.is_alive() and time.monotonic() > end
                if late:
                    process.kill()
                if late or not process.is_alive():
                    process.join()
                    del running[sentinel]
                    how = f"takes more than {limit} s" if late else f"ended with status {process.exitcode}"
                    yield name, _cells(path, how if late or process.exitcode else None)


def _cells(path, how):
    """What a process has written, and how it ended where that was early."""
    cells = {}
    with contextlib.suppress(FileNotFoundError, ValueError), open(path, encoding="utf-8") as file:
        cells = json.load(file)
    if how is not None:
        cells[next((s for s in STAGES[1:] if s not in cells), STAGES[-1])] = f"the process {how}"
    return cells


def _quietly(name, stages, path):
    """What networks print is of no use to anyone."""
    end_with_parent()
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    check(name, stages, path)
    os._exit(0)


def document(results):
    """The Markdown text: counts, what is not accepted and why, and where attention goes in each family."""
    from paddle_attention.analysis import markdown_table

    runs = {name: cells for name, cells in results.items() if "bare" not in cells}
    lines = [f"{len(results)} networks; {len(runs)} of them run themselves."]
    for stage in STAGES[1:]:
        tried = [cells for cells in runs.values() if stage in cells]
        if tried:
            lines.append(f"{stage}: {sum(cells[stage] == 'ok' for cells in tried)} of {len(tried)}.")
    reasons = collections.defaultdict(list)
    for name, cells in results.items():
        for stage in STAGES:
            if cells.get(stage, "ok") != "ok":
                reasons[f"{stage}: {cells[stage]}"].append(name)
    rows = [
        [", ".join(found), f"{why[:160]}"] for why, found in sorted(reasons.items(), key=lambda x: -len(x[1]))
    ]
    places = [
        [name, cells["at"], cells["layers"], f"`{cells['first']}`"]
        for name, cells in runs.items()
        if cells.get("accepted") == "ok"
    ]
    parts = [" ".join(lines), markdown_table(["networks", "reason"], rows) if rows else ""]
    parts.append(markdown_table(["network", "default place", "layers", "first"], places))
    return "\n\n".join(filter(None, parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all that --results lacks")
    parser.add_argument("--workers", type=positive, default=2, help="processes at a time")
    parser.add_argument("--results", metavar="FILE", help="JSON of what is done, to go on from")
    parser.add_argument("--write", metavar="FILE", help="the document to put the tables into")
    parser.add_argument("--train", action="store_true", help="also train one step")
    parser.add_argument("--export", action="store_true", help="also export and compare")
    parser.add_argument("--limit", type=positive, default=900, metavar="SECONDS", help="for one network")
    options = parser.parse_args()
    set_threads(1)
    stages = [stage for stage in ("train", "export") if getattr(options, stage)]
    from paddle_attention import ppcls
    from paddle_attention.analysis import write_between_markers
    from paddle_attention.files import read_results, write_results
    from paddle_attention.naming import did_you_mean

    ppcls.register(os.environ.get("PADDLECLAS_HOME"))
    ppcls.init_logger()

    results, known = read_results(options.results, dict), names()
    if unknown := [name for name in options.names if name not in known]:
        raise ValueError(f"PaddleClas has no network {unknown[0]!r}{did_you_mean(unknown[0], known)}")
    todo = options.names or [name for name in known if name not in results]
    for name, cells in run(todo, stages, options.limit, options.workers):
        results[name] = cells
        print(name, cells, file=sys.stderr, flush=True)
        write_results(options.results, results)
    text = document(dict(sorted(results.items())))
    print(text)
    if options.write:
        write_between_markers(options.write, {_MARKER: text})


if __name__ == "__main__":
    sys.exit(run_tool(main))
