"""Train a small network with and without attention, several seeds each, and say what differs.

    python tools/ablation.py --data dataset/cifar10 --plan --hours 4    # measure, plan, run in the background
    python tools/ablation.py                                            # go on, in the foreground
    python tools/ablation.py --status                                   # the table so far
    python tools/ablation.py --write docs/results.md                    # put the table into a document

Every run is a process of one thread; killed runs go on from their last epoch. The
plan fits into the given hours: it chooses how many training images and epochs.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before Paddle is imported
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

from ablations import plan as planning
from ablations import recipe, report, runs
from ablations.networks import MAIN, NETWORKS

from paddle_attention.analysis import markdown_table, write_between_markers
from paddle_attention.files import FolderLock
from paddle_attention.interrupt import Interrupted

MARKER = "ablation"


def _positive(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, but got {text!r}")
    return int(text)


def _hours(text):
    value = float(text)
    if not 0 < value < 10_000:
        raise argparse.ArgumentTypeError(f"must be a number of hours, but got {text!r}")
    return value


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("output/ablation"), help="where plan, runs and checkpoints are"
    )
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--plan", action="store_true", help="measure, plan, and run in the background")
    parser.add_argument("--status", action="store_true", help="print the table and what is left")
    parser.add_argument(
        "--measure", action="store_true", help="measure the steps of a plan again, on a quiet machine"
    )
    parser.add_argument("--write", metavar="FILE", help="put the table into this document")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help="train one network with one seed")
    plan = parser.add_argument_group("with --plan")
    plan.add_argument(
        "--data", type=Path, help="folder of images with train_list.txt, test_list.txt (dataset/cifar10)"
    )
    plan.add_argument("--hours", type=_hours, help="that the runs may take (4)")
    plan.add_argument(
        "--networks", nargs="+", choices=NETWORKS, metavar="NAME", help=f"of {', '.join(NETWORKS)}"
    )
    plan.add_argument("--seeds", type=_positive, help="runs of each network (3)")
    plan.add_argument("--size", type=_positive, help="images are cropped to this (24)")
    plan.add_argument(
        "--images", type=_positive, help="training images, instead of those that fit; with --epochs"
    )
    plan.add_argument("--epochs", type=_positive, help="epochs, instead of those that fit; with --images")
    plan.add_argument("--dry-run", action="store_true", help="do not run it yet")
    options = parser.parse_args()
    if not options.plan:
        for name, value in vars(options).items():
            if (name in DEFAULTS and value is not None) or (name == "dry_run" and value):
                raise ValueError(
                    f"--{name.replace('_', '-')} belongs to --plan; a plan that is made is not changed"
                )
    if (options.images is None) != (options.epochs is None):
        raise ValueError("--images and --epochs go together")
    for name, value in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


DEFAULTS = {
    "data": Path("dataset/cifar10"),
    "hours": 4.0,
    "networks": list(MAIN),
    "seeds": 3,
    "size": 24,
    "images": None,
    "epochs": None,
}


def _make_plan(options, folder):
    for name in ("train_list.txt", "test_list.txt"):
        if not (options.data / name).is_file():
            raise ValueError(
                f"--data {options.data}: there is no {name}; give a folder of images with PaddleClas' lists"
            )
    if (folder / "plan.json").exists():
        raise ValueError(f"{folder} has a plan; run without --plan to go on, or give another --output")
    folder.mkdir(parents=True, exist_ok=True)
    networks = list(dict.fromkeys(options.networks))
    print(f"measuring a step of {len(networks)} networks ...", flush=True)
    facts = planning.measure(networks, options.size)
    images, epochs = options.images, options.epochs
    if images is None:
        images, epochs = planning.fit(facts, networks, options.seeds, options.hours, options.jobs)
    # As many as each class has: asked for now, not in every run.
    images = len(
        recipe.write_subset(options.data, images, folder / "train_list.txt").read_text().splitlines()
    )
    plan = {
        "data": str(options.data.resolve()),
        "networks": networks,
        "seeds": list(range(options.seeds)),
        "images": images,
        "epochs": epochs,
        "size": options.size,
        "batch": recipe.BATCH,
        "facts": facts,
    }
    runs.write(folder / "plan.json", plan)
    for name, fact in facts.items():
        print(f"  {name:12} {fact['seconds'] * 1000:6.0f} ms a step of {recipe.BATCH} images")
    print(f"{len(networks)} networks x {options.seeds} seeds: {images} images, {epochs} epochs each")


def _in_the_background(folder, jobs):
    log = folder / "all.log"
    command = [sys.executable, __file__, "--output", str(folder), "--jobs", str(jobs)]
    with open(log, "ab") as file:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    print(f"running as process {child.pid}; its log is {log}; see it with --status")


def _show(folder, plan, document):
    found, others = runs.results(folder, plan)
    done = sum(len(of_one) for of_one in found.values())
    table = markdown_table(report.HEADER, report.rows(found, plan["facts"]))
    print(f"{done} of {len(runs.order(plan))} runs are done\n\n{table}")
    if others:
        print(f"left out, of another plan: {', '.join(others)}", file=sys.stderr)
    if document:
        text = f"{plan['images']} 张训练图片，{plan['epochs']} 轮，{plan['size']}x{plan['size']}；"
        text += f"{len(runs.order(plan))} 次训练中完成了 {done} 次：\n\n{table}"
        write_between_markers(document, {MARKER: text})


def main():
    options = _options()
    folder = options.output
    if options.plan:
        _make_plan(options, folder)
        if not options.dry_run:
            _in_the_background(folder, options.jobs)
        return 0
    plan = runs.read_plan(folder)
    if options.one:
        name, seed = options.one
        if name not in plan["networks"] or not seed.isdigit():
            raise ValueError(f"--one {name} {seed}: must be one of {', '.join(plan['networks'])}, and a seed")
        runs.train(folder, name, int(seed))
    elif options.measure:
        facts = planning.measure(plan["networks"], plan["size"])
        runs.write(folder / "plan.json", {**plan, "facts": facts})
    elif options.status or options.write:
        _show(folder, plan, options.write)
    else:
        began = time.time()
        with FolderLock(str(folder), "ablation"):
            failed = runs.run_all(folder, options.jobs, __file__)
        print(f"{failed} failed; {time.time() - began:.0f} s")
        return int(failed > 0)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signal)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
