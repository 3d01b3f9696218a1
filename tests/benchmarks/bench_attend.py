"""python tests/benchmarks/bench_attend.py: memory-efficient forms of attention over the reference forms, in time.

Ratios of medians, the two forms interleaved in one process: 128 channels, batch 1.
"""

import argparse
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from paddle_attention.cli.main import set_threads


def measure(forms, arguments, backward, rounds):
    """Median seconds of every form."""
    times = [[] for _ in forms]
    for _ in range(rounds + 1):
        for form, record in zip(forms, times, strict=True):
            for tensor in arguments:
                tensor.clear_gradient()
                tensor.stop_gradient = not backward
            start = time.perf_counter()
            y = form(*arguments)
            if backward:
                y.sum().backward()
            float(y.sum())
            record.append(time.perf_counter() - start)
    return [statistics.median(record[1:]) for record in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 96])
    options = parser.parse_args()
    set_threads(options.threads)
    import paddle

    from paddle_attention.layers import _chunked_attention as _attend

    pairs = {
        "softmax": (_attend.softmax_attention, _attend.softmax_attention_naive),
        "dot product": (_attend.dot_product_attention, _attend.dot_product_attention_naive),
        "concatenation": (_attend.concatenation_attention, _attend.concatenation_attention_naive),
    }
    print(
        "| form | "
        + " | ".join(f"{n} x {n} {p}" for n in options.sizes for p in ("forward", "training"))
        + " |"
    )
    print("|---" * (1 + 2 * len(options.sizes)) + "|")
    for name, forms in pairs.items():
        cells = []
        for size in options.sizes:
            positions = size * size
            vector = name == "concatenation"
            arguments = [paddle.randn([1, positions] if vector else [1, 128, positions]) for _ in range(2)]
            arguments.append(paddle.randn([1, 128, positions]))
            for backward in (False, True):
                efficient, naive = measure(forms, arguments, backward, options.rounds)
                cells.append(f"{efficient / naive:.3f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
