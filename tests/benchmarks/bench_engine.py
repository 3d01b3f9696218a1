"""Throughput of the embedded engine over PaddleClas' own on the same YAML.

    PADDLECLAS_HOME=/path/to/PaddleClas python tests/benchmarks/bench_engine.py [--runs 3]

Two trainings of two epochs: SE-ResNet18 on the digits, where the step takes the time,
and the smallest PPLCNet with SE on 500 x 375 JPEGs with random crops, where decoding
and augmentation do. Either engine runs in turn, each in a process of its own; compared
are the medians of the images per second they log, and the share of the time in which
a step waited for its batch.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
DIGITS = ROOT / "ppcls_configs/quick_start/se_resnet18_digits.yaml"
PHOTOS, BATCH = 256, 32


def photographs(folder):
    """JPEGs of smooth random colours with some noise, of the size and the compression of photographs."""
    random = np.random.RandomState(0)
    lines = []
    for i in range(PHOTOS):
        coarse = Image.fromarray(random.randint(0, 256, (12, 16, 3), dtype="uint8"))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype="int16")
        noisy = pixels + random.randint(-12, 13, pixels.shape)
        Image.fromarray(noisy.clip(0, 255).astype("uint8")).save(folder / f"{i}.jpg", quality=90)
        lines.append(f"{i}.jpg {i % 10}\n")
    (folder / "list.txt").write_text("".join(lines))


def photographs_config(folder, workers):
    """The digits' YAML, with another network and data."""
    config = yaml.safe_load(DIGITS.read_text(encoding="utf-8"))
    config["Arch"] = {
        "name": "AttentionNet",
        "class_num": 10,
        "backbone": "PPLCNet_x0_25",
        "attention": [{"name": "SE", "at": "blocks5.*", "reduction": 4}],
    }
    part = config["DataLoader"]["Train"]
    part["dataset"].update(image_root=str(folder), cls_label_path=str(folder / "list.txt"))
    part["dataset"]["transform_ops"][1:2] = [
        {"RandCropImage": {"size": 224}},
        {"RandFlipImage": {"flip_code": 1}},
    ]
    part["sampler"]["batch_size"] = BATCH
    part["loader"]["num_workers"] = workers
    config["Global"].update(print_batch_step=2, epochs=4)
    path = folder / f"photographs{workers}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def measure(path, engine, home, directory, environment):
    """``(images per second, share of the time spent waiting for data)``, medians over one run."""
    command = [sys.executable, str(ROOT / "tools/train.py"), "-c", str(path)]
    command += ["-o", "Global.eval_during_train=False", "-o", f"Global.output_dir=output/{engine}"]
    command += ["-o", "Global.epochs=2"] if path == DIGITS else []
    command += ["--paddleclas", home] if engine == "PaddleClas" else []
    done = subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True, text=True)
    # The first line of a run counts the start-up.
    lines = re.findall(
        r"batch_cost: ([\d.]+)s, reader_cost: ([\d.]+)\D*?, ips: ([\d.]+) samples/s", done.stdout
    )[1:]
    rates = [float(ips) for _, _, ips in lines]
    shares = [float(reader) / float(batch) for batch, reader, _ in lines]
    return statistics.median(rates), statistics.median(shares)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    home = os.environ.get("PADDLECLAS_HOME")
    if not home:
        sys.exit("set PADDLECLAS_HOME to a PaddleClas source tree")
    environment = {k: v for k, v in os.environ.items() if k != "PADDLECLAS_HOME"}
    environment["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as directory:
        digits = [sys.executable, "-m", "paddle_attention", "digits"]
        subprocess.run(digits, cwd=directory, env=environment, check=True, capture_output=True)
        photographs(Path(directory))
        plans = {"digits": DIGITS}
        for workers in (0, 2):
            plans[f"photographs, {workers} workers"] = photographs_config(Path(directory), workers)
        for name, path in plans.items():
            found = {"embedded": [], "PaddleClas": []}
            for _ in range(options.runs):
                for engine, results in found.items():
                    results.append(measure(path, engine, home, directory, environment))
            medians = {
                e: [statistics.median(column) for column in zip(*r, strict=True)] for e, r in found.items()
            }
            for engine, (rate, share) in medians.items():
                print(f"{name}: {engine}: {rate:.1f} images/s, {share:.0%} of the time waiting for data")
            ratio = medians["embedded"][0] / medians["PaddleClas"][0]
            print(f"{name}: embedded / PaddleClas: {ratio:.3f} (load {os.getloadavg()[0]:.1f})", flush=True)


if __name__ == "__main__":
    main()
