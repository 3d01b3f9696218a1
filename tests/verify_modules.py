"""python tests/verify_modules.py [--quick] [NAME ...]: measure every registered mechanism.

One row a mechanism, as a Markdown table: errors against the float64 references of the tests
(forward in eval and train mode, gradient) and against the authors' recorded numbers, error of
the exported network in Paddle Inference, latency of a deployed ResNet-18 with it over the bare
one, peak memory of a forward and backward pass at 256 x 96 x 96 beside that of the reference form.
--quick leaves latency and memory out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests")]

from paddle_attention.cli.main import set_threads  # noqa: E402

# Arguments for 64 to 512 channels and for 256, where the defaults do not serve.
ARGUMENTS = {"PSAModule": {"mask_h": 27, "mask_w": 27}, "ShuffleAttention": {"groups": 16}}
REFERENCE = ("NonLocal2D", "PAM", "BaseOC", "PyramidOC", "ASPOC", "SelfAttention2D")
# Recorded as part of something larger, or the other way round.
RECORDED_AS = {"PSAModule": "PSA", "SKConv": "SKBottleneck"}
MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")


def errors(case):
    """Relative errors ``(eval, train, gradient)`` in float64, the last against central differences."""
    import paddle
    from layer_tester import gradient_differences, parameters_of, relative

    found = []
    for training in (False, True):
        layer = case.build("float64")
        layer.train() if training and case.differentiable else layer.eval()
        p, x = parameters_of(layer), case.input("float64")
        found.append(relative(layer(paddle.to_tensor(x)).numpy(), case.reference(x, p, layer.training)))
    if not case.differentiable:
        return [*found, None]
    moved = [entry for entry in gradient_differences(case, training=False) if entry[1] is not None]
    largest = max(norm for _, _, norm, _ in moved)
    return [*found, max(difference / (largest * length) for _, difference, _, length in moved)]


def recorded_error(cls):
    """Error against the authors' recorded output, where there is one of this class."""
    import paddle
    from layer_tester import relative
    from test_torch_weights import AUTHORS, part, read

    from paddle_attention import load_torch_weights

    worst = None
    for file, build, _ in AUTHORS:
        layer = build()
        if type(layer).__name__ != RECORDED_AS.get(cls.__name__, cls.__name__):
            continue
        data = read(file)
        load_torch_weights(layer, part(data, "sd"))
        layer.eval()
        y = layer(paddle.to_tensor(data["x"])).numpy()
        worst = max(worst or 0.0, relative(y, data["y" if "y" in data else "y0"]))
    return worst


def export_errors(case):
    """Errors in Paddle Inference with oneDNN on and off."""
    import paddle
    from layer_tester import in_a_network, relative

    from paddle_attention.deploy import InferencePredictor

    network = in_a_network(case)
    size = case.sizes[0] if case.sizes else (9, 12)
    x = paddle.randn([2, 3, *size])
    expected = network(x).numpy()
    with tempfile.TemporaryDirectory() as directory:
        save(network, directory)
        return [
            relative(InferencePredictor(directory, onednn=on)(x.numpy()), expected) for on in (True, False)
        ]


def save(network, directory):
    import paddle

    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    static = paddle.jit.to_static(network, input_spec=spec, full_graph=True)
    paddle.jit.save(static, os.path.join(directory, "inference"))


def latency(entry, seconds=4.0):
    """``(ratio, where)``: a deployed ResNet-18 at 224 x 224, batch 1, with the mechanism over without."""
    import numpy as np
    import paddle

    from paddle_attention import insert_attention
    from paddle_attention.deploy import InferencePredictor

    context = "matmul" in entry.applied_by
    predictors = []
    for attend in (False, True):
        network = paddle.vision.models.resnet18(num_classes=10)
        if attend:
            spec = {"name": entry.name, **ARGUMENTS.get(entry.name, {})}
            insert_attention(network, dict(spec, at="stage", stages=[3, 4]) if context else spec)
        network.eval()
        with tempfile.TemporaryDirectory() as directory:
            save(network, directory)
            predictors.append(InferencePredictor(directory))
    x = np.random.standard_normal((1, 3, 224, 224)).astype("float32")
    times, end = ([], []), time.perf_counter() + seconds
    for predictor in predictors:
        predictor(x)
    while time.perf_counter() < end or len(times[1]) < 3:
        for predictor, record in zip(predictors, times, strict=True):
            start = time.perf_counter()
            predictor(x)
            record.append(time.perf_counter() - start)
    bare, attended = map(statistics.median, times)
    return attended / bare, "after stages 3, 4" if context else "in all blocks"


MEMORY = """
import json, sys
import paddle
from paddle_attention import build_attention
from paddle_attention.layers import _chunked_attention as _attend

name, arguments, reference = json.loads(sys.argv[1])
if reference:
    _attend._SCORES = 1 << 60
layer = build_attention(name, 256, **arguments)
layer.eval()
def step(size):
    x = paddle.randn([1, 256, size, size])
    x.stop_gradient = False
    layer(x).sum().backward()
def kilobytes(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])
step(24)
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
before = kilobytes("VmRSS")
step(96)
print(kilobytes("VmHWM") - before)
"""


def memory(name, arguments, reference=False):
    """Growth of the process in MB, a forward and backward pass at [1, 256, 96, 96]."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, json.dumps([name, arguments, reference])],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return int(done.stdout.split()[-1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="no latency, no memory")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    set_threads(options.threads)

    import paddle
    from mechanisms import all_cases

    from paddle_attention import list_attentions

    lines = [f"Paddle {paddle.__version__}, {os.environ['OMP_NUM_THREADS']} threads", ""]
    head = ["mechanism", "forward", "train", "gradient", "authors", "export oneDNN", "export plain"]
    head += [] if options.quick else ["latency", "memory MB", "reference MB"]
    head += ["parameters"]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for entry in list_attentions():
        if options.names and entry.name not in options.names:
            continue
        cases = [case for case in all_cases() if case.name == entry.name]
        parity = [errors(case) for case in cases]
        worst = [max((e[i] for e in parity if e[i] is not None), default=None) for i in range(3)]
        exported = [export_errors(case) for case in cases]
        numbers = [*worst, recorded_error(entry.cls), *(max(e[i] for e in exported) for i in range(2))]
        row = [entry.name] + ["-" if n is None else f"{n:.1e}" for n in numbers]
        arguments = ARGUMENTS.get(entry.name, {})
        if not options.quick:
            ratio, where = latency(entry)
            row += [f"{ratio:.2f} {where}", f"{memory(entry.name, arguments):.0f}"]
            row += [f"{memory(entry.name, arguments, True):.0f}" if entry.name in REFERENCE else "-"]
        layer = entry.cls(256, **arguments)
        row += [f"{sum(p.size for p in layer.parameters() if not p.stop_gradient):,}"]
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    if not options.quick and (not options.names or "NonLocal2D" in options.names):
        lines += ["", "| NonLocal2D without sub-sampling | memory MB | reference MB |", "|---|---|---|"]
        for mode in MODES:
            arguments = {"mode": mode, "sub_sample": False}
            mine, reference = (
                memory("NonLocal2D", arguments),
                memory("NonLocal2D", {**arguments, "naive": True}),
            )
            lines.append(f"| {mode} | {mine:.0f} | {reference:.0f} |")
    print("\n".join(lines))  # at the end: Paddle Inference prints in between


if __name__ == "__main__":
    sys.exit(main())
