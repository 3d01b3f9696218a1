"""What attention costs: mechanism x engine x precision x batch size, over the same engine's bare network.

    python tools/benchmark.py --quick                            # three mechanisms, under 3 minutes
    python tools/benchmark.py --output output/benchmark          # the ten most used, about an hour on 2 cores
    python tools/benchmark.py --mechanisms all --training --memory --growth

Each engine runs in processes of its own; within one, the bare network and the one with attention take turns. Printed are
medians of the processes and half the distance between the lowest and the highest. Exports are verified before they are
measured and kept in the output folder, and so is what was measured: a run that was stopped goes on. The table is written as
benchmark.md, .csv and .png. The floor is what the passes of the map through memory cost alone.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from bench.measuring import measure  # noqa: E402
from bench.networks import export  # noqa: E402
from bench.reporting import document, plot, write_csv  # noqa: E402

from paddle_attention.cli.main import run_tool, set_threads  # noqa: E402
from paddle_attention.cli.parser import positive  # noqa: E402
from paddle_attention.files import read_results, write_results  # noqa: E402

USUAL = ["SE", "ECA", "CBAM", "GCBlock", "SGE", "BAM", "GCT", "SimAM", "CoordAttention", "TripletAttention"]
_WHOLE = {
    "backbone": "resnet50",
    "processes": 5,
    "batches": [1, 8],
    "rounds": 9,
    "mechanisms": USUAL,
    "output": "./output/benchmark",
}
_QUICK = {
    "backbone": "resnet18",
    "processes": 1,
    "batches": [1],
    "rounds": 5,
    "mechanisms": ["SE", "ECA", "CBAM"],
    "output": "./output/benchmark_quick",
}
_SIDES = [48, 96]  # of the maps whose times are compared
FORMATS = {"paddle": "paddle", "onnxruntime": "onnx", "openvino": "openvino"}
_PACKAGES = {"paddle": "paddlepaddle", "onnxruntime": "onnxruntime", "openvino": "openvino"}  # names on PyPI
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def machine(threads):
    """The processor, its instruction sets, and the versions of what runs."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        fields = dict(
            map(str.strip, line.split(":", 1))
            for line in file.read().split("\n\n")[0].splitlines()
            if ":" in line
        )
    flags = fields.get("flags", "").split()
    found = " ".join(name for name in _INSTRUCTIONS if name in flags)
    packages = [
        f"{module} {importlib.metadata.version(_PACKAGES[module])}"
        for module in _PACKAGES
        if importlib.util.find_spec(module)
    ]
    name = fields.get("model name", platform.machine())
    return f"{name} ({found}), {threads} threads; {', '.join(packages)}"


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three mechanisms in resnet18, one process each")
    parser.add_argument("--mechanisms", nargs="+", metavar="NAME", help="or all (default: the ten most used)")
    parser.add_argument("--backbone", help="of paddle.vision.models (default: resnet50)")
    parser.add_argument(
        "--size", type=positive, default=224, metavar="PIXELS", help="of the images (%(default)s)"
    )
    parser.add_argument("--engines", nargs="+", choices=FORMATS, help="default: those installed")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--batches", nargs="+", type=positive, metavar="N", help="default: 1 8")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), metavar="N")
    parser.add_argument("--processes", type=positive, metavar="N", help="of each engine (default: 5)")
    parser.add_argument("--rounds", type=positive, metavar="N", help="in a process (default: 9)")
    parser.add_argument(
        "--training", action="store_true", help="also a training step of 16 images of 64 pixels"
    )
    parser.add_argument(
        "--memory", action="store_true", help="also the peak memory of 8 images in Paddle Inference"
    )
    parser.add_argument(
        "--growth", action="store_true", help="also how the time of a layer grows with the side of its map"
    )
    parser.add_argument("--output", metavar="DIR", help="default: ./output/benchmark, with --quick _quick")
    parser.add_argument("--write", metavar="FILE", help="the document to put the table into")
    options = parser.parse_args()
    usual = _QUICK if options.quick else _WHOLE
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    installed = [e for e in FORMATS if e == "paddle" or importlib.util.find_spec(e)]
    options.engines = options.engines or (
        installed if importlib.util.find_spec("paddle2onnx") else ["paddle"]
    )
    return options


def check_backbone(name):
    """Raise ValueError unless it is a function of paddle.vision.models, which makes a network."""
    from paddle.vision import models

    if not inspect.isfunction(getattr(models, name, None)):
        raise ValueError(f"--backbone: paddle.vision.models has no network {name!r}, such as resnet50")


class Results:
    """What was measured, in a file that is whole at every moment."""

    def __init__(self, path, heading):
        self.path, self.content = path, {"latency": {}, "networks": {}}
        self.content.update(read_results(path, (dict, str, int, float), "--output"))
        for key in ("machine", "network"):
            if self.content.get(key, heading[key]) != heading[key]:
                raise ValueError(
                    f"{path} was measured with another {key} ({self.content[key]}); give another --output"
                )
        self.content.update(heading)

    def save(self):
        write_results(self.path, self.content)


def networks(options, results):
    """Export what is not yet; the folder of each."""
    from paddle_attention import list_attentions

    known = [e.name for e in list_attentions()]
    names = known if options.mechanisms == ["all"] else options.mechanisms
    for name in names:
        if name not in known:
            raise ValueError(f"--mechanisms: unknown attention {name!r} (known: {', '.join(known)})")
    directories = {}
    for name in ["bare", *names]:
        directory = os.path.join(options.output, "networks", f"{options.backbone}_{options.size}_{name}")
        formats = [FORMATS[engine] for engine in options.engines]
        os.makedirs(directory, exist_ok=True)
        results.content["networks"][name] = export(name, options.backbone, options.size, directory, formats)
        directories[name] = directory
        print(f"{name}: exported and verified", file=sys.stderr, flush=True)
    results.save()
    return directories


def latencies(options, results, directories):
    """All engines in turn, a process at a time, until each has as many as asked for; how many processes ran."""
    settings = [
        f"{engine}|{precision}|{batch}|{options.threads}"
        for precision in options.precisions
        for batch in options.batches
        for engine in options.engines
        if precision == "fp32" or engine != "onnxruntime"
    ]
    latency, measured = results.content["latency"], 0
    for number in range(options.processes):
        for setting in settings:
            engine, precision, batch, threads = setting.split("|")
            found = latency.setdefault(setting, {})
            todo = [n for n in directories if n != "bare" and len(found.get(n, [])) <= number]
            failed = results.content.setdefault("failed", {}).setdefault(setting, {})
            todo = [n for n in todo if n not in failed]
            if not todo:
                continue
            task = {
                "kind": "latency",
                "engine": engine,
                "precision": precision,
                "batch": int(batch),
                "threads": int(threads),
                "size": options.size,
                "rounds": options.rounds,
                "directories": {n: directories[n] for n in ["bare", *todo]},
            }
            try:
                for name, run in measure(task).items():
                    found.setdefault(name, []).append(run)
            except RuntimeError as error:
                # In one process a failure hides whose it is: from now on each has one of its own.
                _one_by_one(task, todo, found, failed, str(error))
            results.save()
            measured += 1
            print(f"process {number + 1} of {options.processes}: {setting}", file=sys.stderr, flush=True)

    return measured


def _one_by_one(task, names, found, failed, message):
    for name in names:
        try:
            directories = {n: task["directories"][n] for n in ("bare", name)}
            found.setdefault(name, []).extend(measure({**task, "directories": directories}).values())
        except RuntimeError as error:
            failed[name] = str(error) or message


def others(options, results, directories):
    """Bandwidth, and what is asked for besides."""
    content = results.content
    if "bandwidth" not in content:
        content["bandwidth"] = measure({"kind": "bandwidth", "threads": options.threads})
    for name, directory in directories.items() if options.memory else ():
        if name not in content.setdefault("memory", {}):
            task = {"kind": "memory", "engine": "paddle", "precision": "fp32", "threads": options.threads}
            content["memory"][name] = measure(
                {**task, "batch": 8, "size": options.size, "directory": directory}
            )
            results.save()
    if options.growth:
        todo = [n for n in directories if n != "bare" and n not in content.get("growth", {})]
        task = {"kind": "growth", "threads": options.threads, "channels": 64, "sides": _SIDES}
        content.setdefault("growth", {}).update(measure({**task, "names": todo, "rounds": options.rounds}))
        results.save()
    if options.training:
        training = content.setdefault("training", {})
        todo = [n for n in directories if n != "bare" and n not in training]
        task = {"kind": "training", "threads": options.threads, "batch": 16, "backbone": options.backbone}
        for name in todo:
            runs = measure({**task, "names": [name], "rounds": options.rounds})
            training[name] = [runs[name]]
            results.save()
    results.save()


def main():
    options = parse()
    set_threads(options.threads)
    check_backbone(options.backbone)
    before = os.getloadavg()[0]
    heading = {"machine": machine(options.threads), "network": f"{options.backbone} at {options.size}"}
    os.makedirs(options.output, exist_ok=True)
    results = Results(os.path.join(options.output, "results.json"), heading)
    directories = networks(options, results)
    measured = latencies(options, results, directories)
    others(options, results, directories)
    today = datetime.date.today().isoformat()
    if measured or "load" not in results.content:
        results.content["load"] = f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after, {today}"
    results.save()
    text = document(results.content)
    print(text)
    target = os.path.join(options.output, "benchmark")
    with open(target + ".md", "w", encoding="utf-8") as file:
        file.write(text + "\n")
    write_csv(results.content, target + ".csv")
    plot(results.content, target + ".png")
    if options.write:
        from paddle_attention.analysis import write_between_markers

        write_between_markers(options.write, {"benchmark": text})


if __name__ == "__main__":
    sys.exit(run_tool(main))
