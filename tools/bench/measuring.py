"""Times of exported networks in one engine, in a process of its own.

Two engines in one process take each other's threads. A ratio is of pairs: bare, network, bare again; the median over the
rounds, and that of several processes, since one process' ratios move together with how its memory falls.
"""

import json
import os
import statistics
import subprocess
import sys
import time

_SCRIPT = os.path.abspath(__file__)
_PATIENCE = 3600  # seconds for a process
_BANDWIDTH_BYTES = 64 << 20


def measure(task):
    """Run one process: ``{network: {'ratio', 'ms', 'bare_ms'}}``; raises RuntimeError with its last line.

    Args:
        task (dict): ``engine``, ``precision``, ``threads``, ``batch``, ``size``, ``rounds``, ``directories`` (network to
            folder, with 'bare').
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(task["threads"])}
    command = [sys.executable, _SCRIPT, json.dumps(task)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"takes more than {_PATIENCE} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise RuntimeError(lines[-1][:200])
    return json.loads(done.stdout.splitlines()[-1])


def _open(task, directory):
    import numpy as np

    from paddle_attention.deploy import open_predictor

    predictor = open_predictor(
        directory, task["engine"], threads=task["threads"], precision=task["precision"]
    )
    images = np.random.RandomState(0).rand(task["batch"], 3, task["size"], task["size"]).astype("float32")
    return lambda: predictor(images)


def _clock(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _pairs(task):
    bare = _open(task, task["directories"]["bare"])
    found = {}
    for name, directory in task["directories"].items():
        if name == "bare":
            continue
        run = _open(task, directory)
        for _ in range(2):  # warm
            bare(), run()
        ratios, own, plain = [], [], []
        for _ in range(task["rounds"]):
            before, middle, after = _clock(bare), _clock(run), _clock(bare)
            ratios.append(2 * middle / (before + after))
            own.append(middle)
            plain += [before, after]
        found[name] = {
            "ratio": statistics.median(ratios),
            "ms": 1000 * statistics.median(own),
            "bare_ms": 1000 * statistics.median(plain),
        }
        del run
    return found


def _peak():
    """Kilobytes; not getrusage, which begins with the peak of the parent."""
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1])


def _memory(task):
    """The peak of a process above what it has before the network is opened, in MB."""
    before = _peak()
    run = _open(task, task["directory"])
    for _ in range(3):
        run()
    return (_peak() - before) / 1024


def _bandwidth(task):
    """Bytes a second that are read and written together, by a copy that no cache holds."""
    import numpy as np

    source = np.zeros(_BANDWIDTH_BYTES // 4, "float32")
    target = np.empty_like(source)
    times = [_clock(lambda: np.copyto(target, source)) for _ in range(20)]
    return 2 * _BANDWIDTH_BYTES / statistics.median(times[2:])


def _steps(task):
    """Ratios of a training step, as :func:`_pairs`."""
    import paddle

    from .networks import build

    images = paddle.rand([task["batch"], 3, 64, 64])

    def step_of(name):
        network = build(name, task["backbone"])
        network.train()
        optimizer = paddle.optimizer.SGD(1e-4, parameters=network.parameters())

        def step():
            network(images).mean().backward()
            optimizer.step()
            optimizer.clear_grad()

        return step

    bare, found = step_of("bare"), {}
    for name in task["names"]:
        run = step_of(name)
        bare(), run()
        times = [(_clock(bare), _clock(run), _clock(bare)) for _ in range(task["rounds"])]
        found[name] = {
            "ratio": statistics.median(2 * m / (b + a) for b, m, a in times),
            "ms": 1000 * statistics.median(m for _, m, _ in times),
            "bare_ms": 1000 * statistics.median(b for b, _, _ in times),
        }
    return found


def _growth(task):
    """Exponents: the time of a layer grows with this power of the side of its map (2: with the number of positions)."""
    import math

    import paddle

    from paddle_attention import build_attention

    found = {}
    for name in task["names"]:
        layer, points = build_attention(name, task["channels"]), []
        layer.eval()
        for side in task["sides"]:
            x = paddle.rand([1, task["channels"], side, side])
            with paddle.no_grad():
                layer(x)
                times = [_clock(lambda x=x, layer=layer: layer(x)) for _ in range(task["rounds"])]
            points.append((math.log(side), math.log(statistics.median(times))))
        (x0, y0), (x1, y1) = points[-2:]
        found[name] = (y1 - y0) / (x1 - x0)
    return found


TASKS = {
    "latency": _pairs,
    "memory": _memory,
    "bandwidth": _bandwidth,
    "training": _steps,
    "growth": _growth,
}

if __name__ == "__main__":
    tools = os.path.dirname(os.path.dirname(_SCRIPT))
    sys.path[:0] = [os.path.dirname(tools), tools]
    __package__ = "bench"
    import bench  # noqa: F401 - for the relative import above

    argument = json.loads(sys.argv[1])
    print(json.dumps(TASKS[argument["kind"]](argument)))
