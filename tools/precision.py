"""What bfloat16 and int8 cost in accuracy, mechanism by mechanism: the trained networks of an ablation on its test set.

    python tools/precision.py --ablation output/ablation [--write docs/deploy.md]

Every network (of the first seed) is exported, quantised on training images, and run over the whole test set with every
engine and precision that this processor has. "gates too" quantises the attention's own layers as well, which the library
leaves in float. Needs the extra 'openvino'.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))  # before Paddle is imported

import numpy as np  # noqa: E402
from ablations import recipe, runs  # noqa: E402
from ablations.networks import NETWORKS  # noqa: E402

from paddle_attention import ppcls  # noqa: E402
from paddle_attention.analysis import markdown_table, write_between_markers  # noqa: E402
from paddle_attention.checkpoint import load_checkpoint  # noqa: E402
from paddle_attention.deploy import ExportError, export_inference_model, open_predictor  # noqa: E402
from paddle_attention.deploy.formats import convert, run_engine_on  # noqa: E402
from paddle_attention.deploy.predictor import has_bfloat16  # noqa: E402
from paddle_attention.engine import build_loader  # noqa: E402

_BATCH, _CALIBRATION = 250, 512
_MARKER = "precision"


def arrays(config, part, most=None):
    """Images and labels of a part of the data."""
    dataset = build_loader(config, part).dataset
    count = len(dataset) if most is None else min(most, len(dataset))
    pairs = [dataset[i * len(dataset) // count] for i in range(count)]
    return np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs])


def outputs(run, images):
    return np.concatenate([run(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)])


def measure(folder, plan, name, seed):
    """Title and ``{column: (top-1, agreement with fp32)}`` of one network."""
    work = folder / "work" / f"{name}-{seed}"
    config = recipe.config(plan, NETWORKS[name], seed, work, work / "train_list.txt")
    network = ppcls.build_network(config, "export")
    load_checkpoint(network, str(work / "best_model"))
    network.eval()
    images, labels = arrays(config, "Eval")
    calibration, _ = arrays(config, "Train", _CALIBRATION)
    with tempfile.TemporaryDirectory() as directory:
        export_inference_model(
            network,
            directory,
            [3, plan["size"], plan["size"]],
            activation=None,
            formats=["paddle", "onnx", "openvino", "int8"],
            calibration=calibration,
            min_agreement=0.0,
            report=lambda line: None,
        )
        prefix = os.path.join(directory, "inference")
        np.save(prefix + ".npy", calibration)
        convert("int8", prefix + ".onnx", prefix + ".all.onnx", prefix + ".npy", "everything")
        found = {"fp32": run_engine_on("onnxruntime", prefix + ".onnx", images, "fp32")}
        if has_bfloat16():
            found["bf16, Paddle"] = outputs(open_predictor(directory, precision="bf16"), images)
            found["bf16, OpenVINO"] = run_engine_on("openvino", prefix + ".xml", images, "bf16")
        found["int8"] = run_engine_on("onnxruntime", prefix + ".int8.onnx", images, "int8")
        found["int8, OpenVINO"] = run_engine_on("openvino", prefix + ".int8.onnx", images, "int8")
        found["int8, gates too"] = run_engine_on("onnxruntime", prefix + ".all.onnx", images, "int8")
    best = found["fp32"].argmax(1)
    return {
        column: ((values.argmax(1) == labels).mean(), (values.argmax(1) == best).mean())
        for column, values in found.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ablation", required=True, metavar="DIR", help="what tools/ablation.py has written")
    parser.add_argument("--write", metavar="FILE", help="the document to put the table into")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="of the ablation's plan (default: all)")
    options = parser.parse_args()
    folder = Path(options.ablation)
    plan = runs.read_plan(folder)
    ppcls.register()
    ppcls.init_logger()
    rows, header = [], []
    for name in options.networks or plan["networks"]:
        seed = next(
            (s for s in plan["seeds"] if (folder / "work" / f"{name}-{s}" / "best_model.pdparams").exists()),
            None,
        )
        if seed is None:
            print(f"{name}: no weights in {folder / 'work'}", file=sys.stderr)
            continue
        try:
            found = measure(folder, plan, name, seed)
        except ExportError as error:  # such as of a network that oneDNN cannot run
            print(f"{name}: {error}", file=sys.stderr)
            continue
        header = list(found)
        cells = [
            f"{100 * top:.2f}" + ("" if c == "fp32" else f" ({100 * same:.1f})")
            for c, (top, same) in found.items()
        ]
        rows.append([NETWORKS[name].title, *cells])
        print(rows[-1], file=sys.stderr, flush=True)
    text = markdown_table(["network", *header], rows)
    print(text)
    if options.write:
        write_between_markers(options.write, {_MARKER: text})


if __name__ == "__main__":
    main()
