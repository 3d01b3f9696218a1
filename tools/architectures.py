"""python tools/architectures.py [--results FILE] [--write FILE] [NAME ...]: plain `attention: SE` in every PaddleClas network.

Every network that PaddleClas exports (PADDLECLAS_HOME, else the installed one) is built, given SE at its
default place, and run; with --train also trained for one step and with --export exported and compared
with the live network. A network is checked in a process of its own; --results is gone on with.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from backbone_matrix import export, reason, train_step, vary_constants  # noqa: E402

from paddle_attention.cli.main import set_threads  # noqa: E402

_MARKER = "architectures"
STAGES = ("bare", "accepted", "train", "export", "export, oneDNN")


def names():
    """All networks that PaddleClas exports, but for those of this library."""
    code = (
        "import json, ppcls.arch.backbone as b; from paddle_attention.ppcls import backbones as o; "
        "print(json.dumps(sorted(n for n, v in vars(b).items() if o.is_network(v) and n not in o.__all__)))"
    )
    start = (
        "import os; from paddle_attention import ppcls; ppcls.register(os.environ.get('PADDLECLAS_HOME')); "
    )
    done = subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return json.loads(done.stdout.splitlines()[-1])


def build(name, attention):
    """The network with what a YAML says, or bare."""
    import paddle

    from paddle_attention import ppcls

    with paddle.utils.unique_name.guard():  # some give their parameters fixed names
        paddle.seed(0)
        arch = {"name": "AttentionNet", "backbone": name, "attention": attention}
        return ppcls.build_network({"Arch": arch})


def check(name, stages):
    """Print ``{stage: 'ok' or the reason, 'at', 'layers', 'first'}`` after every stage: a later one may crash."""
    from paddle_attention import describe_blocks, ppcls
    from paddle_attention.insertion.records import records

    ppcls.register(os.environ.get("PADDLECLAS_HOME"))
    ppcls.init_logger()
    cells, stage = {}, "accepted"
    try:
        model = build(name, "SE")
        (call,) = records(model)
        cells.update(layers=len(call.insertions), first=call.insertions[0].layer)
        cells["at"] = (
            "block" if call.insertions[0].layer in {b.name for b in describe_blocks(model)} else "residual"
        )
        _tell(cells, stage)
        shape = _shape(model)
        if "train" in stages:
            stage = "train"
            missing = train_step(model, shape)
            _tell(cells, stage, f"no gradient reaches {missing[0]}" if missing else "ok")
        if "export" in stages:
            vary_constants(model.state_dict())
            for stage, onednn in (("export", False), ("export, oneDNN", True)):
                export(model, shape, (onednn,))
                _tell(cells, stage)
    except Exception as error:  # of any kind: it is the cell's content
        # A network that does not run is no matter of attention.
        _tell(cells, "bare" if "does not run on a trial image" in str(error) else stage, reason(error))


def _tell(cells, stage, value="ok"):
    cells[stage] = value
    print(json.dumps(cells), flush=True)


def _shape(model):
    from paddle_attention.insertion.trace import trace_network

    return trace_network(model).input_shape


def run(name, stages, limit):
    """:func:`check` in a process of its own: a crash there is a cell, too."""
    command = [sys.executable, __file__, "--one", name, *(f"--{stage}" for stage in stages)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"accepted": f"took more than {limit} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    cells = json.loads(lines[-1]) if lines else {}
    if done.returncode:
        stage = next(stage for stage in STAGES[1:] if stage not in cells)
        cells[stage] = f"the process ended with status {done.returncode}"
    return cells


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
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--results", metavar="FILE", help="JSON of what is done, to go on from")
    parser.add_argument("--write", metavar="FILE", help="the document to put the tables into")
    parser.add_argument("--train", action="store_true", help="also train one step")
    parser.add_argument("--export", action="store_true", help="also export and compare")
    parser.add_argument("--limit", type=int, default=900, metavar="SECONDS", help="for one network")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    set_threads(1)
    stages = [stage for stage in ("train", "export") if getattr(options, stage)]
    if options.one:
        check(options.one, stages)
        return
    from paddle_attention.analysis import write_between_markers
    from paddle_attention.files import write_atomically

    results = {}
    if options.results and os.path.exists(options.results):
        with open(options.results, encoding="utf-8") as file:
            results = json.load(file)
    todo = options.names or [name for name in names() if name not in results]
    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        futures = {pool.submit(run, name, stages, options.limit): name for name in todo}
        for future in concurrent.futures.as_completed(futures):
            results[futures[future]] = future.result()
            print(futures[future], future.result(), file=sys.stderr, flush=True)
            if options.results:
                content = json.dumps(dict(sorted(results.items())), indent=1).encode()
                write_atomically(options.results, lambda file, content=content: file.write(content))
    text = document(dict(sorted(results.items())))
    print(text)
    if options.write:
        write_between_markers(options.write, {_MARKER: text})


if __name__ == "__main__":
    main()
