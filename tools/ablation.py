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
from ablations import report, runs
from ablations.networks import MAIN, NETWORKS

from paddle_attention.analysis import markdown_table, write_between_markers

MARKER = "ablation"


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", default="dataset/cifar10", help="folder of images with train_list.txt, test_list.txt"
    )
    parser.add_argument("--output", default="output/ablation", help="where plan, runs and checkpoints are")
    parser.add_argument("--plan", action="store_true", help="measure, plan, and run in the background")
    parser.add_argument("--dry-run", action="store_true", help="with --plan: do not run it yet")
    parser.add_argument("--hours", type=float, default=4.0, help="that the runs may take (with --plan)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(MAIN), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each network")
    parser.add_argument("--size", type=int, default=24, help="images are cropped to this")
    parser.add_argument("--images", type=int, help="training images, instead of those that fit")
    parser.add_argument("--epochs", type=int, help="epochs, instead of those that fit")
    parser.add_argument(
        "--measure", action="store_true", help="measure the steps of a plan again, on a quiet machine"
    )
    parser.add_argument("--status", action="store_true", help="print the table and what is left")
    parser.add_argument("--write", metavar="FILE", help="put the table into this document")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help="train one network with one seed")
    return parser.parse_args()


def _make_plan(options, folder):
    data = Path(options.data)
    for name in ("train_list.txt", "test_list.txt"):
        if not (data / name).is_file():
            raise ValueError(
                f"--data {data}: there is no {name}; give a folder of images with PaddleClas' lists"
            )
    if runs.read(folder / "plan.json"):
        raise ValueError(f"{folder} has a plan; run without --plan to go on, or give another --output")
    print(f"measuring a step of {len(options.networks)} networks ...", flush=True)
    facts = planning.measure(options.networks, options.size)
    if options.images and options.epochs:
        images, epochs = options.images, options.epochs
    else:
        images, epochs = planning.fit(facts, options.networks, options.seeds, options.hours, options.jobs)
    plan = {
        "data": str(data.resolve()),
        "networks": options.networks,
        "seeds": list(range(options.seeds)),
        "images": images,
        "epochs": epochs,
        "size": options.size,
        "batch": planning.BATCH,
        "facts": facts,
    }
    folder.mkdir(parents=True, exist_ok=True)
    runs.write(folder / "plan.json", plan)
    for name, fact in facts.items():
        print(f"  {name:12} {fact['seconds'] * 1000:6.0f} ms a step of {planning.BATCH} images")
    print(f"{len(options.networks)} networks x {options.seeds} seeds: {images} images, {epochs} epochs each")


def _in_the_background(folder, jobs):
    log = folder / "all.log"
    command = [sys.executable, __file__, "--output", str(folder), "--jobs", str(jobs)]
    with open(log, "ab") as file:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    print(f"running as process {child.pid}; its log is {log}; see it with --status")


def _table(folder):
    facts = {}
    for path in [folder / "plan.json", *sorted(folder.glob("*/plan.json"))]:
        facts |= (runs.read(path) or {"facts": {}})["facts"]
    return markdown_table(report.HEADER, report.rows(runs.results(folder), facts))


def main():
    options = _options()
    folder = Path(options.output)
    if options.one:
        runs.train(folder, options.one[0], int(options.one[1]))
        return 0
    if options.plan:
        _make_plan(options, folder)
        if not options.dry_run:
            _in_the_background(folder, options.jobs)
        return 0
    plan = runs.read(folder / "plan.json")
    if plan is None:
        raise ValueError(f"{folder} has no plan.json; make one with --plan --hours H")
    if options.measure:
        runs.write(folder / "plan.json", {**plan, "facts": planning.measure(plan["networks"], plan["size"])})
        return 0
    if options.status or options.write:
        done = sum(len(found) for found in runs.results(folder).values())
        print(f"{done} of {len(runs.order(plan))} runs are done\n\n{_table(folder)}")
        if options.write:
            text = f"{plan['images']} 张训练图片，{plan['epochs']} 轮，{plan['size']}x{plan['size']}：\n\n{_table(folder)}"
            write_between_markers(options.write, {MARKER: text})
        return 0
    began = time.time()
    failed = runs.run_all(folder, options.jobs, __file__)
    print(f"{failed} failed; {time.time() - began:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        print(f"ablation: {error}", file=sys.stderr)
        sys.exit(2)
