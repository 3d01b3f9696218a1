"""What attention costs: latency in Paddle Inference and time of a training step, over the bare network.

    python tests/benchmarks/bench_deploy.py [--depth 50] [--size 224] [--rounds 15] [--threads 2]
    python tests/benchmarks/bench_deploy.py --write docs/data/deployed.json
    python tests/benchmarks/bench_deploy.py --memory --write docs/data/deployed.json

Every network is measured in turn with the bare one, call by call; printed are ratios of medians.
Peak memory (of eight images, in a process of its own) does not depend on what else runs. What is
written is added to the figures that the file has.
What weighs all positions for each is placed after stages 3 and 4, BAM after stages 1 to 3, all
else in every block, as in the papers.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

AGGREGATES = {"at": "stage", "stages": [3, 4]}
PLACES = {"BAM": {"at": "stage", "stages": [1, 2, 3]}, "SpatialAttention": {}}


def place(entry):
    """Where a mechanism is put."""
    return PLACES.get(
        entry.name, AGGREGATES if entry.domain == "spatial" or entry.name in ("CAM", "DAModule") else {}
    )


def in_words(where):
    stages = "、".join(map(str, where.get("stages", ())))
    return f"阶段 {stages} 之后" if stages else "每个块"


def ratio(bare, run, rounds):
    """Median of ``run`` over that of ``bare``, called in turn."""
    times = {bare: [], run: []}
    for _ in range(rounds + 2):
        for call in (bare, run):
            start = time.perf_counter()
            call()
            times[call].append(time.perf_counter() - start)
    return statistics.median(times[run][2:]) / statistics.median(times[bare][2:])


def ratios_of(bare, own, rounds):
    """:func:`ratio` of every call; the slow ones in fewer rounds."""
    return [
        ratio(b, o, max(rounds // (3 if i else 1), 3)) for i, (b, o) in enumerate(zip(bare, own, strict=True))
    ]


PEAK = """
import sys
import numpy as np
from paddle_attention.deploy import InferencePredictor
images = np.random.rand(8, 3, int(sys.argv[2]), int(sys.argv[2])).astype("float32")
def peak():  # not getrusage: that begins with the peak of the parent
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1])
before = peak()
predictor = InferencePredictor(sys.argv[1], threads=int(sys.argv[3]))
for _ in range(8):
    predictor(images)
print(peak() - before)
"""


def peak_memory(directory, options):
    """Kilobytes that the exported network in ``directory`` takes at most, above what a process has without it."""
    command = [sys.executable, "-c", PEAK, directory, str(options.size), str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def write(path, options, version, found):
    """Add what was measured to the figures that the file has."""
    document = {"mechanisms": {}}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    document["network"] = f"ResNet{options.depth}，{options.size}×{options.size}"
    document["machine"] = f"Paddle {version}，{options.threads} 个线程，{platform.machine()}"
    for name, figures in found.items():
        document["mechanisms"].setdefault(name, {}).update(figures)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, ensure_ascii=False)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=50, choices=(18, 34, 50))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--latency", action="store_true", help="only one image in Paddle Inference: minutes, not an hour"
    )
    parser.add_argument("--memory", action="store_true", help="only the peak memory of eight images")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="mechanisms to measure")
    parser.add_argument("--write", metavar="FILE", help="the figures as JSON, which the pages show")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)

    import numpy as np
    import paddle
    from paddle.vision import models

    from paddle_attention import insert_attention, list_attentions
    from paddle_attention.deploy import InferencePredictor

    images = {
        batch: np.random.rand(batch, 3, options.size, options.size).astype("float32") for batch in (1, 8)
    }
    small = paddle.rand([16, 3, 64, 64])

    def ready(entry, directory):
        """Calls of a network: deployed with one image and with eight, and a training step; or its peak memory."""
        paddle.seed(0)
        network = getattr(models, f"resnet{options.depth}")(num_classes=1000)
        if entry is not None:
            insert_attention(network, entry.name, **place(entry))
        network.eval()
        spec = paddle.static.InputSpec([None, 3, options.size, options.size], "float32", "x")
        paddle.jit.save(
            paddle.jit.to_static(copy.deepcopy(network), input_spec=[spec]),
            os.path.join(directory, "inference"),
        )
        if options.memory:
            return peak_memory(directory, options)
        predictor = InferencePredictor(directory, threads=options.threads)
        optimizer = paddle.optimizer.SGD(1e-4, network.parameters())

        def step():
            network.train()
            network(small).mean().backward()
            optimizer.step()
            optimizer.clear_grad()

        calls = (lambda: predictor(images[1])), (lambda: predictor(images[8])), step
        return calls[: len(columns)]

    columns = ("latency", "latency_8", "step")[: 1 if options.latency else None]
    if options.memory:
        columns = ("memory_8",)
    print(f"| mechanism | where | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    found = {}
    with tempfile.TemporaryDirectory() as bare_directory:
        bare = ready(None, bare_directory)
        for entry in list_attentions():
            if options.only and entry.name not in options.only:
                continue
            with tempfile.TemporaryDirectory() as directory:
                own = ready(entry, directory)
                ratios = [own / bare] if options.memory else ratios_of(bare, own, options.rounds)
            where = in_words(place(entry))
            found[entry.name] = {
                "places": where,
                **{c: round(r, 3) for c, r in zip(columns, ratios, strict=True)},
            }
            print(f"| {entry.name} | {where} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |", flush=True)
            if options.write:  # after every mechanism: the whole takes an hour
                write(options.write, options, paddle.__version__, found)


if __name__ == "__main__":
    main()
