"""Packaging of paddle_attention. Tool settings are in pyproject.toml."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "paddle_attention/__init__.py").read_text(encoding="utf-8")
)[1]

# The one place that says what Paddle 2.6.2 needs: newer scikit-learn crashes when both are imported.
PADDLE_2_6 = ["scikit-learn<1.8"]

CPU = ["paddlepaddle==3.3.1"]
CPU_2_6 = ["paddlepaddle==2.6.2", *PADDLE_2_6]
GPU = ["paddlepaddle-gpu==2.6.2", *PADDLE_2_6]
PPCLS = ["paddleclas==2.6.0", "visualdl", "matplotlib", "opencv-python", "scikit-learn"]
TEST = [
    "pytest>=9",
    "pytest-xdist",
    "ruff==0.17.6",
    "hypothesis",
    "import-linter==2.17",
    "mypy==2.4.1",
    "types-PyYAML",
    "types-jsonschema",
    "types-tqdm",
]
# Converters and engines beside Paddle Inference; paddle2onnx needs Paddle 3.
ONNX = ["paddle2onnx==2.1.0", "onnx<=1.17", "onnxruntime", "ml_dtypes<0.5"]
OPENVINO = [*ONNX, "openvino"]
# Another OpenCV than PaddleClas': an environment of its own.
PADDLEX = [*CPU, "paddlex[cv,serving]==3.7.2"]
DOCS = ["sphinx", "myst-nb", "furo", "jieba", "sphinx-mathjax-offline"]


class BuildWithConfigs(build_py):
    """The YAMLs stand beside the package in a checkout, and in it in a wheel."""

    def run(self):
        super().run()
        configs = ROOT / "ppcls_configs"
        if not self.editable_mode and configs.is_dir():
            shutil.copytree(
                configs, Path(self.build_lib) / "paddle_attention" / "ppcls_configs", dirs_exist_ok=True
            )


setup(
    name="paddle_attention",
    version=VERSION,
    description="Computer-vision attention mechanisms for PaddlePaddle and PaddleClas",
    long_description=(ROOT / "README_cn.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.12",
    packages=find_packages(include=["paddle_attention", "paddle_attention.*"]),
    cmdclass={"build_py": BuildWithConfigs},
    package_data={"paddle_attention": ["py.typed"]},
    install_requires=["numpy", "safetensors>=0.5", "jsonschema>=4.18", "pillow", "pyyaml", "tqdm"],
    extras_require={
        "cpu": CPU,
        "cpu26": CPU_2_6,
        "gpu": GPU,
        "ppcls": PPCLS,
        "test": TEST,
        "docs": DOCS,
        "onnx": ONNX,
        "openvino": OPENVINO,
        "paddlex": PADDLEX,
        "all": [*CPU, *PPCLS, *TEST],
    },
    entry_points={"console_scripts": ["paddle_attention = paddle_attention.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
