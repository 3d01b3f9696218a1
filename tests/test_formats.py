"""Exports for ONNX Runtime and OpenVINO, what goes with an export, and the predictors of every engine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from layer_tester import needs_converters
from paddle import nn
from paddleclas_home import HOME, OLD

from paddle_attention import SEBlock, build_attention
from paddle_attention.config import ConfigError
from paddle_attention.deploy import (
    FORMATS,
    EnginePredictor,
    ExportError,
    InferencePredictor,
    export_inference_model,
    open_predictor,
    verification,
)
from paddle_attention.deploy import formats as formats_module
from paddle_attention.deploy.inference_config import inference_config
from paddle_attention.deploy.predictor import has_bfloat16
from paddle_attention.files import DamagedFileError
from paddle_attention.preprocess import build_postprocess

ROOT = Path(__file__).parent.parent
ALL = ["paddle", "onnx", "openvino"]


def network(attention=None):
    return nn.Sequential(
        nn.Conv2D(3, 16, 3, padding=1),
        SEBlock(16) if attention is None else attention,
        nn.BatchNorm2D(16),
        nn.AdaptiveAvgPool2D(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def export(model, directory, shape=(3, None, None), formats=("onnx",), **options):
    lines = []
    options.setdefault("report", lines.append)
    errors = export_inference_model(model, str(directory), list(shape), formats=formats, **options)
    return errors, lines


@needs_converters
def test_all_formats_agree(tmp_path):
    model = network()
    real = np.random.RandomState(1).standard_normal([2, 3, 40, 50]).astype("float32")
    errors, lines = export(model, tmp_path, formats=ALL, images=real)
    assert set(errors) == {(n, how) for n in (1, 3, 2) for how in (True, False, "onnx", "openvino")}
    assert max(errors.values()) < 1e-4
    assert any(line.startswith("export check: batch 3, openvino: relative error") for line in lines)
    names = {p.name for p in tmp_path.iterdir()}
    kinds = {".json", ".pdiparams", ".onnx", ".xml", ".bin", ".manifest.json"}
    assert names == {f"inference{kind}" for kind in kinds}
    manifest = json.loads((tmp_path / "inference.manifest.json").read_text())
    assert set(manifest["formats"]) == set(ALL)
    assert set(manifest["formats"]["openvino"]["versions"]) == {"paddle2onnx", "openvino"}
    assert manifest["image_shape"] == [3, None, None]
    model.eval()
    expected = nn.functional.softmax(model(paddle.to_tensor(real))).numpy()
    for engine in ("paddle", "onnxruntime", "openvino"):
        predictor = open_predictor(str(tmp_path), engine, threads=1)
        assert predictor.verified
        assert predictor.activation == "softmax"
        np.testing.assert_allclose(predictor(real), expected, rtol=1e-4, atol=1e-5)


# Those that converters did not take, or took wrong, in the form for training.
OTHER_FORMS = [
    ("CrissCrossAttention", {}),
    ("FcaLayer", {"reduction": 4, "freq_sel_method": "top4"}),
    ("SpatialTransformer", {}),
    ("PyramidOC", {"sizes": [1, 2]}),
    ("ShuffleAttention", {"groups": 2}),
]


@needs_converters
@pytest.mark.parametrize(("name", "arguments"), OTHER_FORMS)
@pytest.mark.parametrize("shape", [(3, None, None), (3, 18, 22)])
def test_forms_that_convert(tmp_path, name, arguments, shape):
    layer = build_attention(name, 16, **arguments)
    for parameter in layer.parameters():  # those that start from 0 would hide errors
        if float(parameter.abs().max()) == 0:
            parameter.set_value(paddle.rand(parameter.shape) * 0.3)
    errors, _ = export(
        network(layer), tmp_path, shape, ["onnx"], activation=None
    )  # OpenVINO: see the shared tester
    assert max(errors.values()) < 1e-4


@needs_converters
def test_an_export_is_replaced_by_what_is_asked_for(tmp_path):
    export(network(), tmp_path, formats=["onnx", "paddle"])
    export(network(), tmp_path, formats=["onnx"])
    assert {p.name for p in tmp_path.iterdir()} == {"inference.onnx", "inference.manifest.json"}
    with pytest.raises(FileNotFoundError, match="holds no exported model"):
        InferencePredictor(str(tmp_path))
    assert open_predictor(str(tmp_path), "openvino")(np.zeros([1, 3, 8, 8], "float32")).shape == (1, 5)


@needs_converters
def test_a_wrong_conversion_is_tried_again(tmp_path, monkeypatch):
    """And leaves nothing where it stays wrong."""
    real, calls = formats_module.run_engine, []

    def sometimes(engine, path, images, *options):
        calls.append(engine)
        outputs = real(engine, path, images, *options)
        return {k: v * (1.1 if len(calls) < wrong else 1.0) for k, v in outputs.items()}

    monkeypatch.setattr(verification, "run_engine", sometimes)
    wrong = 3
    _, lines = export(network(), tmp_path, activation=None)
    assert len(calls) == 3
    assert "export check: onnx is wrong; converting again, 3 of 3" in lines
    wrong, before = 100, {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(
        ExportError, match=r"the exported network as onnx differs from the live one by 1\.0e-01"
    ):
        export(network(), tmp_path, activation=None)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


class Unsupported(nn.Layer):
    """An operator that paddle2onnx does not know."""

    def forward(self, x):
        return paddle.lgamma(x.abs() + 1.0).mean([2, 3])


@needs_converters
def test_what_cannot_be_converted_is_named(tmp_path):
    with pytest.raises(
        ExportError, match=r"format onnx \(the conversion to onnx failed: .*lgamma.*nothing was written"
    ):
        export(Unsupported(), tmp_path, activation=None)
    assert list(tmp_path.iterdir()) == []


@needs_converters
def test_an_engine_that_dies_is_an_error(tmp_path, monkeypatch):
    script = tmp_path / "_engines.py"
    script.write_text("import os; os.abort()")
    monkeypatch.setattr(formats_module, "_FOLDER", str(tmp_path))
    with pytest.raises(ExportError, match="onnxruntime failed: the process was ended by SIGABRT"):
        formats_module.run_engine("onnxruntime", "x.onnx", {})
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(formats_module, "_PATIENCE", 0.5)
    with pytest.raises(ExportError, match=r"onnxruntime takes more than 0\.5 s"):
        formats_module.run_engine("onnxruntime", "x.onnx", {})


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ([], "formats must be a list of some of paddle, onnx, openvino"),
        ("onnx", "formats must be a list"),
        (["tensorrt"], "formats must be some of paddle, onnx, openvino, int8, but got 'tensorrt'"),
    ],
)
def test_bad_formats(tmp_path, formats, message):
    with pytest.raises(ValueError, match=message):
        export(network(), tmp_path, formats=formats)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(formats_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ExportError, match=r"format 'onnx' needs paddle2onnx: pip install 'paddle_attention\[onnx\]'"
    ):
        export(network(), tmp_path)


def test_old_paddle_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(formats_module.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(formats_module.paddle, "__version__", "2.6.2")
    with pytest.raises(
        ExportError, match=r"formats onnx: paddle2onnx needs Paddle 3 or newer, but this is 2\.6\.2"
    ):
        export(network(), tmp_path)


@needs_converters
def test_predictors_refuse(tmp_path):
    export(network(), tmp_path, (3, 8, 8))
    directory = str(tmp_path)
    for engine, options, error, message in [
        (
            "tensorrt",
            {},
            ValueError,
            "engine must be one of paddle, onnxruntime, openvino, but got 'tensorrt'",
        ),
        ("onnxruntime", {"precision": "bf16"}, ValueError, "ONNX Runtime has none on the CPU"),
        (
            "openvino",
            {"precision": "fp64"},
            ValueError,
            "precision must be one of fp32, bf16, int8, but got 'fp64'",
        ),
        ("paddle", {}, FileNotFoundError, "holds no exported model"),
        (
            "openvino",
            {"prefix": "other"},
            FileNotFoundError,
            "no model for openvino: other.xml or other.onnx",
        ),
    ]:
        with pytest.raises(error, match=message):
            open_predictor(directory, engine, **options)
    path = tmp_path / "inference.onnx"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedFileError, match=r"inference\.onnx"):
        EnginePredictor(directory, "onnxruntime")
    os.unlink(tmp_path / "inference.manifest.json")
    with pytest.raises(ValueError, match="onnxruntime cannot open the exported model"):
        EnginePredictor(directory, "onnxruntime")


@needs_converters
@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("engine", ["paddle", "openvino"])
def test_bfloat16(tmp_path, engine):
    export(network(), tmp_path, (3, 8, 8), ALL, activation=None)
    x = np.random.RandomState(0).standard_normal([4, 3, 8, 8]).astype("float32")
    exact = open_predictor(str(tmp_path), engine)(x)
    rounded = open_predictor(str(tmp_path), engine, precision="bf16")(x)
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-6 < error < 2e-2


def test_no_bfloat16_is_told(tmp_path, monkeypatch):
    from paddle_attention.deploy import predictor

    monkeypatch.setattr(predictor, "has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="precision 'bf16': this processor has no instructions for it"):
        InferencePredictor(str(tmp_path), precision="bf16")


CONFIG = {
    "Global": {"image_shape": [3, 32, 32]},
    "Arch": {"name": "SE_ResNet18", "class_num": 3},
    "Infer": {
        "transforms": [
            {"DecodeImage": {"to_rgb": True, "channel_first": False}},
            {"ResizeImage": {"resize_short": 36}},
            {"CropImage": {"size": 32}},
            {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}},
            {"ToCHWImage": None},
        ],
        "PostProcess": {"name": "Topk", "topk": 2, "class_id_map_file": None},
    },
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("0 猫\n1 dog\n2 red panda\n", encoding="utf-8")
    found = json.loads(json.dumps(CONFIG))
    found["Infer"]["PostProcess"]["class_id_map_file"] = str(path)
    return found


def test_what_goes_with_an_export(tmp_path, config):
    (tmp_path / "export").mkdir()
    export(network(), tmp_path / "export", (3, 32, 32), ["paddle"], config=config)
    written = yaml.safe_load((tmp_path / "export" / "inference.yml").read_text(encoding="utf-8"))
    assert written["Global"] == {"model_name": "ResNet18"}
    assert [next(iter(item)) for item in written["PreProcess"]["transform_ops"]] == [
        "ResizeImage",
        "CropImage",
        "NormalizeImage",
        "ToCHWImage",
    ]
    assert written["PreProcess"]["transform_ops"][2]["NormalizeImage"]["scale"] == 1 / 255
    assert written["PostProcess"] == {"Topk": {"topk": 2, "label_list": ["猫", "dog", "red panda"]}}
    assert InferencePredictor(str(tmp_path / "export")).verified  # the YAML is of the set


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ({"name": "CBAM_ResNet50"}, "ResNet50"),
        ({"name": "AttentionNet", "backbone": "MobileNetV3_large_x1_0"}, "MobileNetV3_large_x1_0"),
        ({"name": "ResNet18_vd"}, "ResNet18_vd"),
    ],
)
def test_the_name_that_paddlex_knows(arch, name):
    assert inference_config({"Arch": arch}) == {"Global": {"model_name": name}}
    named = {"Global": {"pdx_model_name": "PP-LCNet_x1_0"}, "Arch": arch}
    assert inference_config(named) == {"Global": {"model_name": "PP-LCNet_x1_0"}}


@pytest.mark.skipif(not HOME or OLD, reason="PADDLECLAS_HOME names no PaddleClas HEAD")
def test_it_is_what_paddleclas_writes(workspace, tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = (
        "import json, sys; from paddle_attention import ppcls; ppcls.register(sys.argv[1]); ppcls.init_logger(); "
        "from ppcls.utils.config import dump_infer_config; "
        "dump_infer_config(json.load(open(sys.argv[2])), sys.argv[3])"
    )
    config["Global"]["pdx_model_name"] = "ResNet18"
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = tmp_path / "theirs.yml"
    workspace.run("-c", code, HOME, str(tmp_path / "config.json"), str(theirs))
    assert inference_config(config) == yaml.safe_load(theirs.read_text(encoding="utf-8"))


@needs_converters
def test_commands(workspace, tmp_path):
    """Train is not needed: weights of a start do."""
    yaml_path = str(ROOT / "ppcls_configs/quick_start/se_resnet18_digits.yaml")
    workspace.start_weights(yaml_path, tmp_path / "weights.pdparams")
    options = [
        f"Global.pretrained_model={tmp_path / 'weights'}",
        f"Global.save_inference_dir={tmp_path / 'out'}",
    ]
    overrides = [part for option in options for part in ("-o", option)]
    command = ["-m", "paddle_attention", "export_model", "-c", yaml_path, *overrides]
    done = workspace.run(*command, "--format", "onnx", "--format", "openvino", "--format", "paddle")
    assert "openvino: relative error" in done.stdout
    assert (tmp_path / "out" / "inference.yml").is_file()
    predict = ["-m", "paddle_attention", "predict", "-c", yaml_path, *overrides]
    found = [
        [
            line
            for line in workspace.run(*predict, "--engine", engine).stdout.splitlines()
            if "digits/" in line
        ]
        for engine in ("paddle", "openvino")
    ]
    assert found[0]
    assert [line.rpartition(" ")[0] for line in found[1]] == [line.rpartition(" ")[0] for line in found[0]]
    failed = workspace.run(*predict, "--engine", "onnxruntime", "--precision", "bf16", check=False)
    assert failed.returncode == 2
    assert "ONNX Runtime has none on the CPU" in failed.stdout


def test_formats_are_in_the_parser():
    from paddle_attention.cli import parser

    assert tuple(FORMATS) == parser._FORMATS


class Colours(nn.Layer):
    """Which colour an image has most of, by a network that has learned nothing."""

    def __init__(self):
        super().__init__()
        self.conv, self.attention = nn.Conv2D(3, 3, 1), SEBlock(3, 1)
        self.conv.weight.set_value(paddle.eye(3).reshape([3, 3, 1, 1]))

    def forward(self, x):
        return self.attention(self.conv(x)).mean([2, 3])


def coloured(n):
    random = np.random.RandomState(0)
    images = random.standard_normal([n, 3, 8, 8]).astype("float32")
    return images + np.eye(3, dtype="float32")[random.randint(0, 3, n)][:, :, None, None]


@needs_converters
def test_int8(tmp_path):
    errors, lines = export(
        Colours(), tmp_path, (3, 8, 8), ["int8"], activation=None, calibration=coloured(64)
    )
    ((key, changed),) = errors.items()
    assert key == (32, "int8")
    assert changed <= 0.02
    assert any("of 32 images have the live network's class" in line for line in lines)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"inference.int8.onnx", "inference.manifest.json"}
    manifest = json.loads((tmp_path / "inference.manifest.json").read_text())
    assert manifest["formats"]["int8"]["agreement"] == 1 - changed
    images, model = coloured(16), Colours()
    model.eval()
    for engine in ("onnxruntime", "openvino"):
        assert open_predictor(str(tmp_path), engine, precision="int8")(images).shape == (16, 3)
        with pytest.raises(FileNotFoundError, match=f"no model for {engine}"):
            open_predictor(str(tmp_path), engine)
    with pytest.raises(ValueError, match="Paddle Inference has none; use engine onnxruntime or openvino"):
        open_predictor(str(tmp_path), "paddle", precision="int8")


@needs_converters
def test_int8_that_changes_classes_is_refused(tmp_path, monkeypatch):
    with pytest.raises(
        ExportError, match="needs at least 32 photographs to calibrate on and to be judged by, but got 0"
    ):
        export(Colours(), tmp_path, (3, 8, 8), ["int8"])
    real = verification.run_engine_on

    def turned(*arguments):
        return np.roll(real(*arguments), 1, axis=1)

    monkeypatch.setattr(verification, "run_engine_on", turned)
    with pytest.raises(
        ExportError, match=r"0 of 32 images have .* 98\.0% is asked for: calibrate on more images"
    ):
        export(Colours(), tmp_path, (3, 8, 8), ["int8"], activation=None, calibration=coloured(64))
    assert list(tmp_path.iterdir()) == []


@needs_converters
@pytest.mark.parametrize(
    ("name", "added"),
    [
        *(
            (name, 0)
            for name in ("SE", "CBAM", "ECA", "SimAM", "SGE", "BAM", "CoordAttention", "TripletAttention")
        ),
        ("GCBlock", 2),  # what it adds to the map is no gate
    ],
)
def test_gates_stay_in_float(tmp_path, name, added):
    """None of their convolutions is quantised; the network's own all are."""
    import onnx

    options = {"activation": None, "calibration": coloured(64), "min_agreement": 0}
    arguments = {"groups": 4} if name == "SGE" else {}
    export(network(build_attention(name, 16, **arguments)), tmp_path, (3, 8, 8), ["int8"], **options)
    graph = onnx.load(str(tmp_path / "inference.int8.onnx")).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    quantised = [node for node in products if made.get(node.input[1]) == "DequantizeLinear"]
    assert len(quantised) == 2 + added  # the first convolution and the classifier
    assert len(products) > 2 or name == "SimAM"


POOLED = [("GlobalAveragePool", "y", "p"), ("Conv", "p w1", "h")]
WEIGHED = [("Sigmoid", "h", "s"), ("Mul", "y s", "z")]
GRAPHS = {
    # name: nodes as (operation, inputs, output), names of those that stay in float
    "a gate": ([*POOLED, *WEIGHED], "h"),
    "a gate that clips": ([*POOLED, ("Clip", "h", "s"), ("Mul", "s y", "z")], "h"),
    "a gate used again after its own product": (
        [*POOLED, *WEIGHED, ("Conv", "z w1", "u"), ("Mul", "u s", "v")],
        "h",
    ),
    "a gate that reads the map": ([("Conv", "y w1", "h"), *WEIGHED], "h"),
    "swish": ([("Sigmoid", "y", "s"), ("Mul", "y s", "z")], ""),
    "a branch that ends in tanh": (
        [("Conv", "y w1", "u"), ("Tanh", "u", "t"), *POOLED, ("Sigmoid", "h", "s"), ("Mul", "t s", "z")],
        "h",
    ),
    "a branch that ends in relu6": (
        [("Conv", "y w1", "u"), ("Clip", "u", "t"), *POOLED, ("Sigmoid", "h", "s"), ("Mul", "t s", "z")],
        "h",
    ),
    "a classifier": ([*POOLED, ("Softmax", "h", "z")], ""),
}


@needs_converters
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", GRAPHS)
def test_what_a_gate_is(name, named):
    """``y`` is made by a convolution of the network; some nodes have no name, as those that paddle2onnx makes of hardswish."""
    from onnx import TensorProto, helper

    from paddle_attention.deploy._conversion import gate_nodes

    nodes, float_ones = GRAPHS[name]
    made = [
        helper.make_node(kind, ins.split(), [out], name=out if named or kind == "Conv" else "")
        for kind, ins, out in [("Conv", "x w1", "y"), *nodes]
    ]
    weights = helper.make_tensor("w1", TensorProto.FLOAT, [2, 1, 1, 1], [0.5, 1.5])
    assert gate_nodes(helper.make_graph(made, name, [], [], [weights])) == float_ones.split()


@needs_converters
@pytest.mark.parametrize("engine", ["paddle", "onnxruntime", "openvino"])
def test_images_of_another_size_are_refused(tmp_path, engine):
    """OpenVINO would give the results of the images before them."""
    export(network(), tmp_path, (3, 8, 8), ALL)
    predictor = open_predictor(str(tmp_path), engine)
    predictor(np.zeros([5, 3, 8, 8], "float32"))
    for shape in ([2, 3, 12, 8], [2, 1, 8, 8], [3, 8, 8]):
        with pytest.raises(
            ValueError, match=r"the network was exported for \[3, 8, 8\] \(Global.image_shape\)"
        ):
            predictor(np.zeros(shape, "float32"))
    predictor.run = lambda images: np.zeros([5, 5], "float32")
    with pytest.raises(ValueError, match="the engine gives 5 results for 2 images; use another engine"):
        predictor(np.zeros([2, 3, 8, 8], "float32"))


@needs_converters
def test_a_conversion_ends_with_its_parent(tmp_path):
    """Also after kill -9: it would write into the folder of the next export."""
    (tmp_path / "_engines.py").write_text("import os, time; open('started', 'w').close(); time.sleep(600)")
    code = (
        f"import os; os.chdir({str(tmp_path)!r}); from paddle_attention.deploy import formats; "
        f"formats._FOLDER = {str(tmp_path)!r}; formats.run_engine('onnxruntime', 'x', {{}})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: (tmp_path / "started").exists())
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("nothing happened in 30 s")


def test_what_only_paddleclas_knows_is_written_as_it_is(config):
    config["Infer"]["PostProcess"] = {"name": "PersonAttribute", "threshold": 0.5}
    assert inference_config(config)["PostProcess"] == {"PersonAttribute": {"threshold": 0.5}}
    config["Infer"]["transforms"] = [{}]
    with pytest.raises(
        ConfigError, match=r"Infer\.transforms\.0: must be one 'Name: arguments', but got \{\}"
    ):
        inference_config(config)
    config["Infer"]["transforms"] = [{"NormalizeImage": {"scale": "import os"}}]
    with pytest.raises(ConfigError, match=r"Infer\.transforms\.0\.NormalizeImage\.scale: must be a number"):
        inference_config(config)


def test_a_yaml_of_another_network_is_refused(tmp_path, config):
    rows, names = np.full([1, 4], 0.25), ["a.png"]
    with pytest.raises(ConfigError, match=r"Arch\.class_num: 3, but the network has 4 outputs"):
        build_postprocess(config)(rows, names)
    del config["Arch"]["class_num"]
    with pytest.raises(
        ConfigError, match="names 3 classes, but the network has 4 outputs; class 3 has no name"
    ):
        build_postprocess(config)(rows, names)
    path = tmp_path / "names.txt"
    for text, message in (
        ("0 a\n0 b\n", r"names\.txt:2: class 0 has a name already"),
        ("0 a\n30000000 b\n", r"names\.txt:2: there are no 30000000 classes"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            build_postprocess(config)
