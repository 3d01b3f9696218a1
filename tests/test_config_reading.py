"""YAMLs, overrides and the schema: whatever is wrong ends in one line that says where."""

from pathlib import Path

import pytest
import yaml

from paddle_attention.config import ConfigError, build_by_name, check_config, parse_value, read_config
from paddle_attention.config.schema import SCHEMA

BAD_FILES = [
    (
        b"Global: {epochs: 1}\nArch: {}\nGlobal: {epochs: 2}\n",
        r"a\.yaml:3: Global is given twice, also on line 1",
    ),
    (b"Global:\n  epochs: 1\n  epochs: 2\n", r"a\.yaml:3: Global\.epochs is given twice, also on line 2"),
    (
        b"Loss:\n  Train:\n  - CELoss: {weight: 1, weight: 2}\n",
        r"a\.yaml:3: Loss\.Train\.0\.CELoss\.weight is given",
    ),
    (b"Global: &a\n  x: *a\n", r"a\.yaml:1: Global\.x holds itself"),
    (b"Global: &a [*a]\n", "holds itself"),
    (b"Global: {}\nArch: {name: \xff}\n", r"a\.yaml:2: not UTF-8 text"),
    (
        b"Global: {epochs: !!python/object/apply:os.system [id]}\n",
        "is not a YAML file: could not determine a constr",
    ),
    (b"a: [", "is not a YAML file: while parsing"),
    (b"- 1\n", r"must hold sections such as Global and Arch, but got \[1\]"),
    (b"", "must hold sections such as Global and Arch, but got None"),
    (b"\0", "is not a YAML file"),
    (b"Global: {d: 2026-13-45}\n", "is not a YAML file: month must be in"),
    (b"Global: {x: " + b"[" * 5000 + b"]" * 5000 + b"}\n", "nested too deeply"),
    (
        b"a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 10)) for c in range(98, 107)),
        "holds (more than )?100000 values|with every alias written out",
    ),
    (b"x" * 10_000_001, "has more than 10000000 bytes"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES, ids=[m[:40] for _, m in BAD_FILES])
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_config(str(path))


VALUES = {
    "None": None,
    "null": None,
    "True": True,
    "true": True,
    "3": 3,
    "1e-3": 0.001,
    "-2.5": -2.5,
    "[1, 2]": [1, 2],
    "(1, 2)": (1, 2),
    "{name: SE, at: stage}": {"name": "SE", "at": "stage"},
    "[{name: SE}, {name: CBAM}]": [{"name": "SE"}, {"name": "CBAM"}],
    "'3'": "3",
    "gpu": "gpu",
    "./output/a=b": "./output/a=b",
    "1.0/255.0": "1.0/255.0",
    "2*3": "2*3",
    "__import__('os').system('touch evil')": "__import__('os').system('touch evil')",
    "": None,
}


@pytest.mark.parametrize("text", VALUES)
def test_values_of_overrides(tmp_path, monkeypatch, text):
    """Python's literals, else YAML; nothing is evaluated."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("Global: {x: 0}\n")
    config = read_config("a.yaml", [f"Global.x={text}", f"Arch.new.y={text}"])
    assert config["Global"]["x"] == VALUES[text]
    assert type(config["Global"]["x"]) is type(VALUES[text])
    assert config["Arch"]["new"]["y"] == VALUES[text]
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("text", ["[a", "{a: 1, a: 2}", "&a [*a]", "!!python/name:os.system ''"])
def test_bad_values_of_overrides(text):
    with pytest.raises(ConfigError, match=r"^(the value|.*holds itself|the value:1: a is given twice)"):
        parse_value(text)


def test_strings_that_are_literals(tmp_path):
    """As in PaddleClas: in dicts, not in lists."""
    path = tmp_path / "a.yaml"
    path.write_text("Global: {a: '1e-3', b: 1e-3, c: None, d: 'x', e: ['1']}\n")
    section = read_config(str(path))["Global"]
    assert section == {"a": 0.001, "b": 0.001, "c": None, "d": "x", "e": ["1"]}


def test_an_alias_is_a_value_of_its_own(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("DataLoader:\n  Train: &t {sampler: {batch_size: 8, x: '1'}}\n  Eval: *t\n")
    config = read_config(str(path), ["DataLoader.Eval.sampler.batch_size=3"])
    assert config["DataLoader"]["Train"]["sampler"] == {"batch_size": 8, "x": 1}
    assert config["DataLoader"]["Eval"]["sampler"] == {"batch_size": 3, "x": 1}


def test_impossible_values_have_a_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("Global:\n  epochs: 3\n  seed: 2020-13-45\n")
    with pytest.raises(ConfigError, match=r"month must be in 1\.\.12 '2020-13-45'; put it in quotes.*line 3"):
        read_config(str(path))


def test_none_is_the_default():
    def build(a, b=2, c=None):
        return a, b, c

    assert build_by_name("P", {"build": build}, "build", {"a": 1, "b": None, "c": None}) == (1, 2, None)


def test_where_a_key_stands(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("Global:\n  epochs: 0\nArch:\n  attention:\n    - {name: SE}\n    - {name: XX}\n")
    config = read_config(str(path), ["Global.seed=-1"])
    assert config.locate("Global.epochs: must be") == f"{path}:2"
    assert config.locate("Global.device: must be") == f"{path}:1"
    assert config.locate("Arch.attention.1: unknown") == f"{path}:6"
    assert config.locate("Global.seed: must be") == "-o 'Global.seed=-1'"
    assert config.locate("image x.jpg: broken") == ""
    assert config.locate("") == ""


OPERATORS = "DataLoader.Train.dataset.transform_ops"
WRONG = {
    "Global.seed": [(-1, "at least 0, but got -1"), (1.0, "an integer"), (True, "an integer, but got True")],
    "Global.epochs": [(float("nan"), "an integer"), ([], "an integer"), ("1", "an integer")],
    "Global.output_dir": [(3, "a path, but got 3"), ({}, "a path")],
    "Global.image_shape": [
        ([3, 224], "a list .channels, height, width., but got"),
        ([3, 0, 1], "at least 1, but got 0"),
    ],
    "Global.save_steps": [(0, "at least 1")],
    "Global.keep": [(0, "at least 1"), ("all", "an integer")],
    "Global.nan_policy": [
        ("skip", "'stop', or how many such batches to skip"),
        (0, "at least 1"),
        (1.5, "'stop', or"),
    ],
    "Global.on_bad_image": [("ignore", r"'ignore' is not supported.*'error', 'skip'")],
    "Global.max_image_pixels": [(-1, "at least 1")],
    "Global.checkpoints": [("", "a path, but got ''"), ("a\0b", "a path")],
    "profiler_options": [({1: 2, "b": 3}, "a string")],
    "EMA.decay": [(-1, "at least 0, but got -1"), (1, "less than 1"), ("x", "a number")],
    "EMA.decai": [(1, "key 'decai' .*did you mean 'decay'")],
    "AMP.scale_loss": [(0, "more than 0")],
    "Arch": [("abc", "must be a dict such as"), ([], "a dict")],
    "Arch.class_num": [(0, "at least 1"), ("ten", "an integer")],
    "Loss.Train": [("CELoss", "a list of losses"), ([3], "must be one 'Name: arguments', but got 3")],
    "Loss.Train.0.CELoss.epsilon": [(2, "at most 1")],
    "Loss.Train.0.CELoss.weight": [("x", "a number")],
    "Optimizer.momentum": [(1, "less than 1"), ("x", "a number")],
    "Optimizer.lr.learning_rate": [(-1, "at least 0"), ("0.1*2", "a number, but got '0.1.2'")],
    "Optimizer.lr.warmup_epoch": [(-5, "at least 0")],
    "Optimizer.regularizer": [("L2", "a dict of arguments")],
    "Optimizer.regularizer.coeff": [("x", "a number")],
    "DataLoader.Train.sampler.batch_size": [(0, "at least 1"), ("8", "an integer"), (2.0, "an integer")],
    "DataLoader.Train.sampler.shuffle": [("abc", "True or False, but got 'abc'"), (1, "True or False")],
    "DataLoader.Train.loader.num_workers": [(-1, "at least 0"), (10**6, "at most 256")],
    "DataLoader.Train.dataset.image_root": [(None, None), (5, "a path")],
    "DataLoader.Train.dataset.delimiter": [("", "at least one character")],
    OPERATORS: [("DecodeImage", "a list of operators"), ([5], "one 'Name: arguments', but got 5")],
    f"{OPERATORS}.1.NormalizeImage.std": [
        ([0, 1, 1], "std.0: must be more than 0, but got 0"),
        (0, "a list of three numbers"),
        (["1", 1, 1], "a number"),
    ],
    f"{OPERATORS}.1.NormalizeImage.mean": [
        ([1, 1], "a list of three numbers"),
        ([float("inf")] * 3, "a number"),
    ],
    "Infer.batch_size": [(0, "at least 1")],
    "Infer.infer_imgs": [(["a"], "a path")],
    "Metric.Eval": [({"TopkAcc": 1}, "a list of metrics")],
}


def put(node, path, value):
    *keys, last = path.split(".")
    for key in keys:
        node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
    node[last] = value


@pytest.mark.parametrize("path", WRONG)
def test_wrong_values(path):
    for value, message in WRONG[path]:
        config = yaml.safe_load(
            """
            Global: {epochs: 1}
            Arch: {name: X}
            Loss: {Train: [{CELoss: {weight: 1}}]}
            Optimizer: {name: Momentum, lr: {name: ConstLR}, regularizer: {name: L2}}
            DataLoader: {Train: {dataset: {transform_ops: [{DecodeImage: null}, {NormalizeImage: {}}]}, sampler: {}}}
            """
        )
        check_config(config, "train")
        put(config, path, value)
        if message is None:
            check_config(config, "train")
            continue
        with pytest.raises(ConfigError, match=rf"^{path.split('.')[0]}\..*{message}|^{path}.*{message}"):
            check_config(config, "train")


def test_sections_of_mixed_keys():
    from paddle_attention.config import section_hashes

    assert len(section_hashes({"Arch": {1: 2, "b": (3, None)}, 5: []})) == 2


def test_the_profiler_belongs_to_training(workspace):
    for tool, options, message in (
        ("eval", "a=1", "unrecognized arguments: -p a=1"),
        ("train", "nonsense", "must be key1=value1;key2=value2, but got 'nonsense'"),
    ):
        script = Path(__file__).parent.parent / "tools" / f"{tool}.py"
        done = workspace.run(script, "-c", "x.yaml", "-p", options, check=False)
        assert done.returncode == 2
        assert message in done.stdout


def test_the_schema_is_one():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(SCHEMA)


def test_a_mistake_names_file_and_line(workspace):
    config = workspace.path / "mistake.yaml"
    config.write_text("Global:\n  device: cpu\n  epochs: 0\n")
    done = workspace.tool("train", config, check=False)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == f"error: Global.epochs: must be at least 1, but got 0 ({config}:3)"
    done = workspace.tool("train", config, "Global.epochs=2*3", check=False)
    assert done.stdout.splitlines()[-1] == (
        "error: Global.epochs: must be an integer, but got '2*3' (-o 'Global.epochs=2*3')"
    )
