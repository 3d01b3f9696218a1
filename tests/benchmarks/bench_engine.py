"""Throughput of the embedded engine over PaddleClas' own on the same YAML.

    PADDLECLAS_HOME=/path/to/PaddleClas python tests/benchmarks/bench_engine.py [--runs 3]

Trains SE-ResNet18 for two epochs on the digits with either engine in turn, each in
a process of its own, and compares the medians of the images per second they log.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    home = os.environ.get("PADDLECLAS_HOME")
    if not home:
        sys.exit("set PADDLECLAS_HOME to a PaddleClas source tree")
    environment = {k: v for k, v in os.environ.items() if k != "PADDLECLAS_HOME"}
    environment["PYTHONPATH"] = str(ROOT)
    rates = {"embedded": [], "PaddleClas": []}
    with tempfile.TemporaryDirectory() as directory:
        digits = [sys.executable, "-m", "paddle_attention", "digits"]
        subprocess.run(digits, cwd=directory, env=environment, check=True, capture_output=True)
        for _ in range(options.runs):
            for engine in rates:
                command = [sys.executable, str(ROOT / "tools/train.py")]
                command += ["-c", str(ROOT / "ppcls_configs/quick_start/se_resnet18_digits.yaml")]
                command += ["-o", "Global.epochs=2", "-o", "Global.eval_during_train=False"]
                command += ["--paddleclas", home] if engine == "PaddleClas" else []
                done = subprocess.run(
                    command, cwd=directory, env=environment, check=True, capture_output=True, text=True
                )
                # The first line of a run counts the start-up.
                found = [float(x) for x in re.findall(r"ips: ([\d.]+) samples/s", done.stdout)][1:]
                rates[engine].append(statistics.median(found))
                print(f"{engine}: {rates[engine][-1]:.1f} images/s", flush=True)
    medians = {engine: statistics.median(values) for engine, values in rates.items()}
    print(f"embedded / PaddleClas: {medians['embedded'] / medians['PaddleClas']:.3f}")


if __name__ == "__main__":
    main()
