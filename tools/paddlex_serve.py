"""Serve an exported network with PaddleX' own server (environment: pip install "paddlex[serving]==3.7.2" paddlepaddle==3.3.1).

    python tools/paddlex_serve.py output/inference --port 8080
    curl -d '{"image": "<base64 of a photograph>", "topk": 3}' -H 'Content-Type: application/json' \\
        http://localhost:8080/image-classification

The folder is one that tools/export_model.py wrote, with its inference.yml. This starts what ``paddlex --serve`` starts, with
one repair: PaddleX 3.7.2 answers every request with status 500, since its server takes the class numbers, which its
predictor gives as an array of the whole batch, for those of the image. It needs nothing of paddle_attention.
"""

import argparse
import os
import sys
import tempfile

import yaml


def repair():
    """Let the predictor give plain numbers, image by image; a PaddleX that does so already is left as it is."""
    from paddlex.inference.models.image_classification.processors import Topk

    original = Topk.__call__

    def call(self, *arguments, **options):
        numbers, scores, names = original(self, *arguments, **options)
        return [[int(n) for n in row] for row in numbers], [[float(s) for s in row] for row in scores], names

    Topk.__call__ = call


def pipeline_file(directory, model, topk, batch_size):
    """Write the description of PaddleX' pipeline; returns its path."""
    with open(os.path.join(model, "inference.yml"), encoding="utf-8") as file:
        name = yaml.safe_load(file)["Global"]["model_name"]
    module = {
        "module_name": "image_classification",
        "model_name": name,
        "model_dir": os.path.abspath(model),
        "batch_size": batch_size,
        "topk": topk,
    }
    path = os.path.join(directory, "image_classification.yaml")
    pipeline = {
        "pipeline_name": "image_classification",
        "SubModules": {"ImageClassification": module},
        "Serving": {"visualize": False},  # a picture in every answer needs a font, which it downloads
    }
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(pipeline, file)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="the folder of an export")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--topk", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=1)
    options = parser.parse_args()
    if not os.path.isfile(os.path.join(options.model, "inference.yml")):
        sys.exit(
            f"error: {options.model!r} holds no inference.yml; export with tools/export_model.py -c CONFIG.yaml"
        )
    try:
        from paddlex.paddlex_cli import main as serve
    except ImportError as error:
        sys.exit(
            f"error: {error}; pip install 'paddlex[serving]==3.7.2' paddlepaddle==3.3.1, in an environment of its own"
        )
    repair()
    with tempfile.TemporaryDirectory() as directory:
        path = pipeline_file(directory, options.model, options.topk, options.batch_size)
        sys.argv = ["paddlex", "--serve", "--pipeline", path, "--device", options.device]
        sys.argv += ["--host", options.host, "--port", str(options.port)]
        serve()


if __name__ == "__main__":
    main()
