"""What attention costs: latency in Paddle Inference and time of a training step, over the bare network.

    python tests/benchmarks/bench_deploy.py [--depth 50] [--size 224] [--rounds 15] [--threads 2]

All networks are measured in turn in one process; printed are ratios of medians.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=50, choices=(18, 34, 50))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)

    import numpy as np
    import paddle
    from paddle.vision import models

    from paddle_attention import insert_attention, list_attentions
    from paddle_attention.deploy import InferencePredictor

    def build(attention):
        paddle.seed(0)
        network = getattr(models, f"resnet{options.depth}")(num_classes=1000)
        if attention is not None:
            insert_attention(network, attention)
        return network

    names = ["bare", *(entry.name for entry in list_attentions())]
    networks = {name: build(None if name == "bare" else name) for name in names}

    def ratios(run):
        times = {name: [] for name in names}
        for _ in range(options.rounds + 2):
            for name in names:
                start = time.perf_counter()
                run(name)
                times[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(values[2:]) for name, values in times.items()}
        return {name: value / medians["bare"] for name, value in medians.items()}

    columns = {}
    with tempfile.TemporaryDirectory() as directory:
        predictors = {}
        for name, network in networks.items():
            network.eval()
            spec = paddle.static.InputSpec([None, 3, options.size, options.size], "float32", "x")
            prefix = os.path.join(directory, name, "inference")
            paddle.jit.save(paddle.jit.to_static(copy.deepcopy(network), input_spec=[spec]), prefix)
            predictors[name] = InferencePredictor(os.path.dirname(prefix), threads=options.threads)
        for batch in (1, 8):
            x = np.random.rand(batch, 3, options.size, options.size).astype("float32")
            columns[f"inference, batch {batch}"] = ratios(lambda name, x=x: predictors[name](x))

    optimizers = {name: paddle.optimizer.SGD(1e-4, n.parameters()) for name, n in networks.items()}
    x = paddle.rand([16, 3, 64, 64])

    def step(name):
        networks[name].train()
        networks[name](x).mean().backward()
        optimizers[name].step()
        optimizers[name].clear_grad()

    columns["training step, 64 x 64, batch 16"] = ratios(step)

    print(
        f"\nResNet{options.depth}, {options.size} x {options.size}, {options.threads} threads, ratio to bare:\n"
    )
    print("| attention in every block | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in names:
        print(f"| {name} | " + " | ".join(f"{column[name]:.2f}" for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
