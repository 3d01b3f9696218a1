"""python tests/verify_paddleclas.py --paddleclas DIR [--data DIR] [NAME ...]: mechanism x PaddleClas tool.

For every registered mechanism, in a copy of the PaddleClas source tree after install: train, resume,
evaluate, infer, export and deploy/python/predict_cls.py with PaddleClas' own scripts, as its test_tipc
does, on a few real images. Each step is checked by what it prints: the resumed run continues, the
evaluation repeats the training's last one, the exported model classifies as the checkpoint does.
Prints a Markdown table of ok or the reason.
"""

import argparse
import concurrent.futures
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

STEPS = ("train", "resume", "eval", "infer", "export", "predict_cls")
# Where and with what arguments, for a ResNet18 on 64 x 64 pixels; the others go into every block.
CONTEXT = {"at": "stage", "stages": [2]}
SPECS = {
    **dict.fromkeys(
        [
            "NonLocal2D",
            "SelfAttention2D",
            "ASPOC",
            "BaseOC",
            "PyramidOC",
            "CrissCrossAttention",
            "RCCA",
            "DAModule",
            "PAM",
            "CAM",
            "EMAU",
            "DoubleAttention",
            "ExternalAttention",
            "SimplifiedNonLocal",
        ],
        CONTEXT,
    ),
    "PSAModule": {**CONTEXT, "mask_h": 15, "mask_w": 15},
    "ShuffleAttention": {"groups": 16},
}
TRAIN, TEST = 64, 32


class Step(Exception):
    """A step that did not do what it should."""


def sample(data, directory):
    """Lists of the first images of every class, and the images to classify; returns the number of classes."""
    classes = 0
    for part, count in (("train", TRAIN), ("test", TEST)):
        with open(os.path.join(data, f"{part}_list.txt"), encoding="utf-8") as file:
            lines = [line.split() for line in file if line.strip()]
        kinds = sorted({int(label) for _, label in lines})
        classes = max(classes, kinds[-1] + 1)
        chosen = []
        for i in range(math.ceil(count / len(kinds))):
            for kind in kinds:
                chosen += [line for line in lines if int(line[1]) == kind][i : i + 1]
        with open(os.path.join(directory, f"{part}.txt"), "w", encoding="utf-8") as file:
            file.writelines(f"{name} {label}\n" for name, label in chosen[:count])
    images = os.path.join(directory, "images")
    os.makedirs(images, exist_ok=True)
    for name, label in chosen[:8]:
        ending = os.path.splitext(name)[1]
        shutil.copy(
            os.path.join(data, name), os.path.join(images, f"{label}_{len(os.listdir(images))}{ending}")
        )
    return classes


NORMALISE = {"scale": "1.0/255.0", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "order": ""}


def config(name, data, directory, classes):
    """PaddleClas' YAML for one mechanism."""
    decode = {"DecodeImage": {"to_rgb": True, "channel_first": False}}
    resize = {"ResizeImage": {"size": 64}}

    def part(which, batch):
        return {
            "dataset": {
                "name": "ImageNetDataset",
                "image_root": data + "/",
                "cls_label_path": f"{directory}/{which}.txt",
                "transform_ops": [decode, resize, {"NormalizeImage": NORMALISE}],
            },
            "sampler": {
                "name": "DistributedBatchSampler",
                "batch_size": batch,
                "drop_last": False,
                "shuffle": which == "train",
            },
            "loader": {"num_workers": 0, "use_shared_memory": False},
        }

    return {
        "Global": {
            "checkpoints": None,
            "pretrained_model": None,
            "output_dir": f"{directory}/{name}",
            "device": "cpu",
            "save_interval": 1,
            "eval_during_train": True,
            "eval_interval": 1,
            "epochs": 1,
            "print_batch_step": 1,
            "use_visualdl": False,
            "image_shape": [3, 64, 64],
            "save_inference_dir": f"{directory}/{name}/inference",
            "seed": 0,
        },
        "Arch": {
            "name": "AttentionNet",
            "class_num": classes,
            "backbone": "ResNet18",
            "attention": [{"name": name, **SPECS.get(name, {})}],
        },
        "Loss": {"Train": [{"CELoss": {"weight": 1.0}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "Momentum",
            "momentum": 0.9,
            "lr": {"name": "Cosine", "learning_rate": 0.01},
            "regularizer": {"name": "L2", "coeff": 0.0001},
        },
        "DataLoader": {"Train": part("train", 16), "Eval": part("test", 16)},
        "Infer": {
            "infer_imgs": f"{directory}/images",
            "batch_size": 4,
            "transforms": [decode, resize, {"NormalizeImage": NORMALISE}, {"ToCHWImage": None}],
            "PostProcess": {"name": "Topk", "topk": 1},
        },
        "Metric": {"Train": [{"TopkAcc": {"topk": [1, 5]}}], "Eval": [{"TopkAcc": {"topk": [1, 5]}}]},
    }


def averages(text):
    """``{name: number}`` of the last evaluation in a log."""
    lines = [line for line in text.splitlines() if "[Eval]" in line and "[Avg]" in line]
    if not lines:
        raise Step("no evaluation in the log")
    numbers = re.findall(r"(\w+): ([\d.]+|nan)", lines[-1].split("[Avg]")[1])
    return {name: float(number) for name, number in numbers}


def classes_inferred(text):
    """``{file: best class}`` as tools/infer.py prints them."""
    pairs = re.findall(r"'class_ids': \[(\d+)[^}]*?'file_name': '([^']+)'", text)
    return {os.path.basename(file): int(number) for number, file in pairs}


def classes_predicted(text):
    """``{file: best class}`` as deploy/python/predict_cls.py prints them."""
    pairs = re.findall(r"(\S+\.\w{3}):?\s+.*?class id\(s\): \[(\d+)", text)
    return {file: int(number) for file, number in pairs}


def deploy_config(images, model, size, normalise):
    """PaddleClas' YAML for deploy/python/predict_cls.py."""
    return {
        "Global": {
            "infer_imgs": images,
            "inference_model_dir": model,
            "batch_size": 1,
            "use_gpu": False,
            "enable_mkldnn": True,
            "cpu_num_threads": 1,
            "enable_benchmark": False,
            "use_fp16": False,
            "ir_optim": True,
            "use_tensorrt": False,
            "gpu_mem": 8000,
            "enable_profile": False,
        },
        "PreProcess": {
            "transform_ops": [
                {"ResizeImage": {"size": size}},
                {"NormalizeImage": {**normalise, "scale": 0.00392157, "channel_num": 3}},
                {"ToCHWImage": None},
            ]
        },
        "PostProcess": {"main_indicator": "Topk", "Topk": {"topk": 1, "class_id_map_file": None}},
    }


class Tree:
    """An installed copy of a PaddleClas source tree."""

    def __init__(self, source, directory):
        self.home, self.directory = os.path.join(directory, "PaddleClas"), directory
        for part in ("ppcls", "tools", "deploy"):
            shutil.copytree(os.path.join(source, part), os.path.join(self.home, part), symlinks=True)
        self.old = not os.path.exists(os.path.join(self.home, "ppcls/utils/amp.py"))
        self.run("-m", "paddle_attention", "install", self.home)

    def run(self, *command):
        """Run Python in the copy; returns its output."""
        environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
        environment.pop("PADDLECLAS_HOME", None)
        if self.old:
            environment["FLAGS_set_to_1d"] = "1"  # old PaddleClas wants losses of shape [1]
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if line.strip()]
            raise Step(f"status {done.returncode}: {lines[-1] if lines else ''}"[:200].replace("|", "/"))
        return done.stdout

    def tool(self, script, path, *overrides):
        """Run one of PaddleClas' tools."""
        options = [word for override in overrides for word in ("-o", override)]
        return self.run(f"tools/{script}.py", "-c", path, *options)

    def checkpoint(self, settings, name):
        """Where PaddleClas puts a checkpoint; up to 2.3 below the network's name."""
        return "/".join([settings["output_dir"], *(["AttentionNet"] if self.old else []), name])


def predict(tree, settings):
    """Classify with ``deploy/python/predict_cls.py``; returns ``{file: class}``."""
    model = settings["save_inference_dir"]
    path = f"{model}/deploy.yaml"
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(deploy_config(f"{tree.directory}/images", model, 64, NORMALISE), file)
    script = ("deploy/python/predict_cls.py", "-c", path)
    return classes_predicted(tree.run(*(script if tree.old else ("-m", "paddle_attention", "run", *script))))


def check(name, tree, data, classes):
    """``{step: 'ok' or the reason}`` of one mechanism."""
    cells, settings = {}, config(name, data, tree.directory, classes)
    path = f"{tree.directory}/{name}.yaml"
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(settings, file)
    settings = settings["Global"]
    latest = tree.checkpoint(settings, "latest")
    found = {}

    def train():
        log = tree.tool("train", path)
        losses = re.findall(r"\[Train\]\[Epoch 1/1\]\[Avg\].*?loss: ([\d.]+|nan)", log)
        if not losses or not math.isfinite(float(losses[-1])):
            raise Step(f"loss {losses}")

    def resume():
        log = tree.tool("train", path, f"Global.checkpoints={latest}", "Global.epochs=2")
        if "[Train][Epoch 2/2]" not in log or "[Train][Epoch 1/2]" in log:
            raise Step("it did not go on from the first epoch")
        found["eval"] = averages(log)

    def evaluate():
        got = averages(tree.tool("eval", path, f"Global.pretrained_model={latest}"))
        if got != found["eval"]:
            raise Step(f"{got} after a training that ended with {found['eval']}")

    def infer():
        found["infer"] = classes_inferred(tree.tool("infer", path, f"Global.pretrained_model={latest}"))
        if len(found["infer"]) != 8:
            raise Step(f"{len(found['infer'])} of 8 images")

    def export():
        tree.tool("export_model", path, f"Global.pretrained_model={latest}")
        if not os.path.exists(settings["save_inference_dir"] + "/inference.pdiparams"):
            raise Step("no inference.pdiparams")

    def predict_cls():
        got = predict(tree, settings)
        if got != found["infer"]:
            raise Step(f"{got}, not {found['infer']}"[:200])

    for step, function in zip(STEPS, (train, resume, evaluate, infer, export, predict_cls), strict=True):
        try:
            function()
            cells[step] = "ok"
        except (Step, subprocess.TimeoutExpired, KeyError, OSError) as error:
            cells[step] = (str(error) or type(error).__name__)[:200].replace("|", "/")
    shutil.rmtree(settings["output_dir"], ignore_errors=True)
    return cells


def main():
    from paddle_attention.registry import list_attentions

    known = [entry.name for entry in list_attentions()]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="mechanisms (default: all)")
    parser.add_argument("--paddleclas", default=os.environ.get("PADDLECLAS_HOME"), metavar="DIR")
    parser.add_argument(
        "--data", default="dataset/digits", metavar="DIR", help="with train_list.txt and test_list.txt"
    )
    parser.add_argument("--workers", type=int, default=2, help="mechanisms at a time")
    options = parser.parse_args()
    if not options.paddleclas:
        parser.error("--paddleclas or PADDLECLAS_HOME must name a PaddleClas source tree")
    if not os.path.exists(os.path.join(options.data, "train_list.txt")):
        parser.error(
            f"{options.data} has no train_list.txt; python -m paddle_attention digits {options.data}"
        )
    import paddle

    with tempfile.TemporaryDirectory() as directory:
        tree, data = Tree(os.path.abspath(options.paddleclas), directory), os.path.abspath(options.data)
        classes = sample(data, directory)
        names = options.names or known
        rows, good = [], 0
        with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
            jobs = pool.map(lambda name: check(name, tree, data, classes), names)
            for name, cells in zip(names, jobs, strict=True):
                rows.append([name, *(cells[step] for step in STEPS)])
                good += sum(cell == "ok" for cell in cells.values())
                print(*rows[-1], file=sys.stderr, flush=True)
        kind = "before 2.4" if tree.old else "from 2.4"
        print(f"Paddle {paddle.__version__}, PaddleClas {kind}: {good} of {len(rows) * len(STEPS)} ok\n")
        from paddle_attention.analysis import markdown_table

        print(markdown_table(["mechanism", *STEPS], rows))


if __name__ == "__main__":
    main()
