"""Every mechanism in every format and precision: ok, the error of its outputs, or the reason why not.

    python tools/format_table.py --results output/formats.json [--write docs/deploy.md] [NAME ...]

A ResNet18 with the mechanism, its statistics those of the data and its constants varied, is exported and run by every engine on
other images than it was calibrated on. Exact forms are compared with the live network to 1e-4 (free height and width), and
their cells say ok; those of bfloat16 and int8 hold the relative error. Needs the extra 'openvino'; --results is gone on with.
"""

import argparse
import os
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from paddle_attention.cli.main import run_tool, set_threads  # noqa: E402

_MARKER = "formats"
_SIDE, _IMAGES = 64, 32
NARROW = {"ShuffleAttention": {"groups": 8}}  # of 64 channels
WIDE = {"PyramidOC": {"stages": [1]}}  # parts of the map, which is to be no smaller than 6 x 6
EXACT = {"paddle": "Paddle", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def images(seed):
    """Smooth random ones, as photographs are."""
    import numpy as np
    import paddle

    coarse = np.random.RandomState(seed).standard_normal([_IMAGES, 3, 8, 8]).astype("float32")
    size = [_SIDE, _SIDE]
    return paddle.nn.functional.interpolate(paddle.to_tensor(coarse), size, mode="bilinear").numpy()


def network(name):
    """ResNet18 with a mechanism where the benchmark puts it, as if it had been trained a little."""
    from backbone_matrix import train_step, vary_constants
    from bench.networks import place
    from paddle.vision.models import resnet18

    from paddle_attention import get_attention, insert_attention

    model = resnet18(num_classes=10)
    spec = {"name": name, **NARROW.get(name, {})}
    insert_attention(model, spec, **{**place(get_attention(name)), **WIDE.get(name, {})})
    vary_constants(model.state_dict())
    train_step(model, [3, _SIDE, _SIDE])
    model.eval()
    return model


def check(name):
    """``{column: 'ok', an error or a reason}`` of one mechanism."""
    import paddle

    from paddle_attention.deploy import ExportError, export_inference_model

    paddle.seed(0)
    model, cells = network(name), {}
    shared = {"activation": None, "batch_sizes": (2,), "report": lambda line: None}
    for kind, title in EXACT.items():
        with tempfile.TemporaryDirectory() as directory:
            try:
                export_inference_model(model, directory, [3, None, None], formats=[kind], **shared)
                cells[title] = "ok"
            except ExportError as error:
                cells[title] = _reason(error)
    with tempfile.TemporaryDirectory() as directory:
        try:
            formats = ["paddle", "onnx", "openvino", "int8"]
            export_inference_model(
                model,
                directory,
                [3, _SIDE, _SIDE],
                formats=formats,
                calibration=images(1),
                min_agreement=0.0,
                **shared,
            )
            cells.update(_inexact(model, os.path.join(directory, "inference")))
        except ExportError as error:
            cells["fixed sizes"] = _reason(error)
    return cells


def _inexact(model, prefix):
    """Relative errors in bfloat16 and int8."""
    import paddle

    from paddle_attention.deploy.comparing import relative_error
    from paddle_attention.deploy.formats import run_engine_on
    from paddle_attention.deploy.predictor import has_bfloat16

    runs = {
        "Paddle bf16": ("paddle", prefix, "bf16"),
        "OpenVINO bf16": ("openvino", prefix + ".xml", "bf16"),
        "ONNX Runtime int8": ("onnxruntime", prefix + ".int8.onnx", "int8"),
        "OpenVINO int8": ("openvino", prefix + ".int8.onnx", "int8"),
    }
    new, cells = images(2), {}
    expected = model(paddle.to_tensor(new)).numpy()
    for title, (engine, path, precision) in runs.items():
        if precision == "bf16" and not has_bfloat16():
            continue
        try:
            error = relative_error(run_engine_on(engine, path, new, precision), expected, None)
            cells[title] = f"{error:.1e}"
        except (RuntimeError, ValueError) as error:
            cells[title] = _reason(error)
    return cells


def _reason(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].partition("; nothing was")[0][:160]


def document(results):
    """Counts, and a row a mechanism."""
    from paddle_attention.analysis import markdown_table

    columns = list(dict.fromkeys(column for cells in results.values() for column in cells))
    rows = [[name, *(cells.get(c, "") for c in columns)] for name, cells in sorted(results.items())]
    counts = [
        f"{title}: {sum(cells.get(title) == 'ok' for cells in results.values())} of {len(results)}"
        for title in EXACT.values()
    ]
    return f"{'; '.join(counts)}.\n\n{markdown_table(['mechanism', *columns], rows)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all that --results lacks")
    parser.add_argument("--results", metavar="FILE", help="JSON of what is done, to go on from")
    parser.add_argument("--write", metavar="FILE", help="the document to put the table into")
    options = parser.parse_args()
    set_threads(os.cpu_count())
    from paddle_attention import list_attentions
    from paddle_attention.analysis import write_between_markers
    from paddle_attention.files import read_results, write_results

    known = [entry.name for entry in list_attentions()]
    if unknown := [name for name in options.names if name not in known]:
        raise ValueError(f"unknown attention {unknown[0]!r} (known: {', '.join(known)})")
    results = read_results(options.results, dict)
    for name in options.names or [n for n in known if n not in results]:
        results[name] = check(name)
        print(name, results[name], file=sys.stderr, flush=True)
        write_results(options.results, results)
    text = document(results)
    print(text)
    if options.write:
        write_between_markers(options.write, {_MARKER: text})


if __name__ == "__main__":
    sys.exit(run_tool(main))
