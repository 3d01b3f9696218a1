"""How long a step takes, and what fits into the hours that there are."""

import statistics
import time

import numpy as np
import paddle

from paddle_attention import insert_attention
from paddle_attention.analysis import count_complexity
from paddle_attention.networks import BACKBONES

from .networks import BACKBONE, NETWORKS
from .recipe import BATCH, CLASSES

_TEST_IMAGES, _TEST_SHARE = 10_000, 0.3  # a forward pass costs this part of a training step
_LEAST_EPOCHS, _MOST_EPOCHS = 8, 60
_SIZES_OF_SUBSET = (50_000, 20_000, 10_000, 5_000, 2_000, 1_000)


def build(name, size):
    """The network ``name`` of the table."""
    network = BACKBONES[BACKBONE](class_num=CLASSES)
    if NETWORKS[name].attention:
        insert_attention(network, list(NETWORKS[name].attention), input_shape=[3, size, size])
    return network


def _step(network, optimizer, images, labels):
    began = time.perf_counter()
    loss = paddle.nn.functional.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    float(loss)
    return time.perf_counter() - began


def measure(names, size, rounds=5):
    """Seconds of a training step of every network, medians of interleaved rounds, and their complexity."""
    random = np.random.RandomState(0)
    images = paddle.to_tensor(random.standard_normal([BATCH, 3, size, size]).astype("float32"))
    labels = paddle.to_tensor(random.randint(0, CLASSES, [BATCH]))
    ready = {}
    for name in names:
        network = build(name, size)
        optimizer = paddle.optimizer.Momentum(0.01, parameters=network.parameters())
        _step(network, optimizer, images, labels)
        ready[name] = (network, optimizer)
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name, (network, optimizer) in ready.items():
            times[name].append(_step(network, optimizer, images, labels))
    facts = {}
    for name, (network, _) in ready.items():
        network.eval()
        complexity = count_complexity(network, (3, size, size))
        facts[name] = {
            "seconds": statistics.median(times[name]),
            "params": complexity.params,
            "macs": complexity.flops(),
        }
    return facts


def fit(facts, names, seeds, hours, jobs):
    """``(images, epochs)`` for which all runs of ``names`` take at most ``hours``.

    As many images as leave enough epochs: fewer than that and a schedule has no time to work.
    """
    per_image = sum(facts[name]["seconds"] for name in names) / BATCH * seeds
    budget = hours * 3600 * jobs - per_image * _TEST_SHARE * _TEST_IMAGES
    for images in _SIZES_OF_SUBSET:
        epochs = int(budget / (per_image * images))
        if epochs >= _LEAST_EPOCHS:
            return images, min(epochs, _MOST_EPOCHS)
    least = per_image * (_SIZES_OF_SUBSET[-1] * _LEAST_EPOCHS + _TEST_SHARE * _TEST_IMAGES) / 3600 / jobs
    raise ValueError(
        f"--hours {hours} is too little for {len(names)} networks x {seeds} seeds; give {least:.1f}"
    )
