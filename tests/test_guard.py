"""Nobody's weights and nobody's YAML run code, through PaddleClas' networks and tools either."""

import importlib
import io
import os
import pickle
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from paddle_attention import ppcls
from paddle_attention.checkpoint import save_file
from paddle_attention.config import ConfigError, DataError
from paddle_attention.ppcls import bridge, guard

ROOT = Path(__file__).parent.parent


class Evil:
    """Its pickle makes a file when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    """A folder that evil code would make."""
    path = tmp_path / "evil"
    yield path
    assert not path.exists()


@pytest.fixture
def evil(tmp_path, mark):
    path = tmp_path / "evil.pdparams"
    path.write_bytes(pickle.dumps({"fc.weight": Evil(mark)}))
    return str(path)


def test_it_would_run_without_the_guard(tmp_path):
    """The means of these tests are real."""
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"x": Evil(tmp_path / "made")}))
    paddle.load(str(tmp_path / "a.pdparams"))
    assert (tmp_path / "made").exists()
    assert eval(f"__import__('os').mkdir({str(tmp_path / 'too')!r})") is None
    assert (tmp_path / "too").exists()


ARCHS = {
    "ResNet18": {"name": "ResNet18"},
    "PPLCNet": {"name": "PPLCNet_x0_25"},
    "ViT": {"name": "DeiT_tiny_patch16_224"},
    "ResNet18 in RecModel": {"name": "RecModel", "Backbone": {"name": "ResNet18"}},
    "ours": {"name": "SE_ResNet18"},
    "any": {"name": "AttentionNet", "backbone": {"name": "ResNet18"}, "attention": "SE"},
}


@pytest.mark.parametrize("name", ARCHS)
def test_weights_of_architectures(arch, evil, name):
    section = {**ARCHS[name]}
    if "Backbone" in section:
        section["Backbone"] = {**section["Backbone"], "pretrained": evil}
    else:
        section["pretrained"] = evil
    with pytest.raises(
        (DataError, ValueError), match=r"evil\.pdparams.*(wants to call posix\.mkdir|nt\.mkdir)"
    ):
        ppcls.build_network({"Arch": section})
    assert paddle.load is not guard._load


def test_good_weights_still_load(arch, tmp_path):
    """By PaddleClas' own loader, which gets what paddle.load would have given it."""
    paddle.seed(1)
    state = ppcls.build_network({"Arch": {"name": "ResNet18"}}).state_dict()
    save_file(state, str(tmp_path / "good.pdparams"))
    paddle.seed(2)
    for path in ("good.pdparams", "good"):
        loaded = ppcls.build_network({"Arch": {"name": "ResNet18", "pretrained": str(tmp_path / path)}})
        assert all(np.array_equal(v.numpy(), state[k].numpy()) for k, v in loaded.state_dict().items())


def test_writing_is_as_ever(tmp_path):
    """Inside of the guard PaddleClas saves its checkpoints, optimizer and all."""
    layer = nn.Linear(3, 2)
    with guard.guarded():
        paddle.save([{"w": layer.weight, "LR_Scheduler": {"last_epoch": 1}}], str(tmp_path / "a.pdopt"))
        paddle.save(layer.state_dict(), str(tmp_path / "a.pdparams"), protocol=2)
        loaded = paddle.load(str(tmp_path / "a.pdopt"))
    assert np.array_equal(loaded[0]["w"].numpy(), layer.weight.numpy())


CODE = "__import__('os').mkdir({!r})"
EVALUATED = {
    "RecModel": lambda code: {"name": "RecModel", "Backbone": {"name": code}},
    "gear": lambda code: {
        "name": "RecModel", "Backbone": {"name": "ResNet18"}, "Head": {"name": code},
    },
    "PPLCNet": lambda code: {"name": "PPLCNet_x0_25", "lr_mult_list": code},
    "ViT": lambda code: {"name": "DeiT_tiny_patch16_224", "norm_layer": code},
    "Swin": lambda code: {"name": "SVTR_tiny", "norm_layer": code},
    "SVTR": lambda code: {"name": "SVTR_tiny", "sub_norm": code},
    "distillation": lambda code: {"name": "DistillationModel", "models": [{"Student": {"name": code}}]},
    "any": lambda code: {"name": "AttentionNet", "backbone": {"name": code}, "attention": "SE"},
    "ours": lambda code: {"name": code},
}  # fmt: skip


@pytest.mark.parametrize("name", EVALUATED)
def test_strings_are_not_evaluated(arch, mark, name):
    with pytest.raises(ValueError, match=r"^Arch"):
        ppcls.build_network({"Arch": EVALUATED[name](CODE.format(str(mark)))})


@pytest.mark.parametrize(
    "name",
    ["importlib.import_module", "copy.copy", "nn.utils.vector_to_parameters", "paddle.save", "nn.__name__"],
)
def test_names_of_other_things_are_refused(arch, name):
    with pytest.raises(ValueError, match=r"^Arch\.Backbone\.name: PaddleClas has no network"):
        ppcls.build_network({"Arch": {"name": "RecModel", "Backbone": {"name": name}}})
    # Where PaddleClas evaluates it without having been asked about its networks:
    with pytest.raises(ConfigError, match=r"is no name|names no layer"), guard.guarded():
        __import__("ppcls.arch").arch.RecModel(Backbone={"name": name})


@pytest.mark.parametrize(
    "name", ["build_gear", "load_dygraph_pretrain", "to_static", "build_model", "get_apis", "importlib"]
)
def test_helpers_are_no_networks(arch, name):
    with pytest.raises(ValueError, match=r"Arch\.name: PaddleClas has no network"):
        ppcls.build_network({"Arch": {"name": name}})


def test_what_the_architectures_need_is_resolved(arch):
    vit = ppcls.build_network({"Arch": {"name": "DeiT_tiny_patch16_224", "norm_layer": "nn.LayerNorm"}})
    assert isinstance(vit.norm, nn.LayerNorm)
    ppcls.build_network({"Arch": {"name": "PPLCNet_x0_25", "lr_mult_list": "[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]"}})
    ppcls.build_network({"Arch": {"name": "SVTR_tiny"}})
    model = ppcls.build_network(
        {
            "Arch": {
                "name": "RecModel",
                "Backbone": {"name": "SE_ResNet18"},
                "BackboneStopLayer": {"name": "flatten"},
            }
        }
    )
    assert model.backbone is not None


def test_every_eval_is_replaced(arch):
    """In all modules of PaddleClas that are imported: none finds Python's own."""
    modules = [
        m for n, m in sys.modules.items() if n.split(".")[0] == "ppcls" and getattr(m, "__file__", None)
    ]
    assert len(modules) > 50
    assert [m.__name__ for m in modules if vars(m).get("eval") is not guard.evaluate] == []
    backbones = importlib.import_module("ppcls.arch.backbone")
    assert "eval" not in backbones.__all__


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1.0/255.0", 1 / 255), ("-(2+3)*4", -20), ("[1, 2]", [1, 2]), ("None", None), ("'a'", "a")],
)
def test_literals_and_quotients(text, value):
    assert guard.evaluate(text) == value


@pytest.mark.parametrize(
    "text", ["9**9**9", "1/0", "(lambda: 1)()", "a.b", "len", "().__class__", "x" * 10**5, "(" * 500]
)
def test_nothing_else(text):
    with pytest.raises(ConfigError, match=r"is no name|names no layer"):
        guard.evaluate(text)


# --- PaddleClas' own tools ------------------------------------------------------------------


@pytest.fixture
def checkout(arch, tmp_path):
    """A PaddleClas checkout with a script that does what its tools do."""
    folder = tmp_path / "PaddleClas"
    (folder / "tools").mkdir(parents=True)
    (folder / "ppcls").symlink_to(Path(sys.modules["ppcls"].__path__[0]))
    (folder / "tools" / "helper.py").write_text("import pickle\ndef find(name):\n    return eval(name)\n")
    (folder / "tools" / "train.py").write_text(
        "import sys, paddle\n"
        "from helper import find, pickle\n"
        "from ppcls.utils import config\n"
        "from ppcls.arch import build_model\n"
        "args = config.parse_args()\n"
        "read = config.get_config(args.config, overrides=args.override, show=False)\n"
        "print(read['Global'])\n"
        "for key, act in (('weights', paddle.load), ('index', lambda p: pickle.load(open(p, 'rb'))),\n"
        "                 ('name', find), ('inline', lambda text: eval(text))):\n"
        "    if read['Global'].get(key):\n"
        "        print('got', act(read['Global'][key]))\n"
    )
    return folder


def run(workspace, checkout, settings, *options):
    path = checkout / "a.yaml"
    path.write_text(yaml.safe_dump({"Global": settings, "Arch": {"name": "ResNet18"}}))
    words = [word for option in options for word in ("-o", option)]
    return workspace.run(
        "-m", "paddle_attention", "run", checkout / "tools" / "train.py", "-c", path, *words, check=False
    )


def test_run_is_guarded(workspace, checkout, evil, mark, tmp_path):
    index = tmp_path / "index.pkl"
    index.write_bytes(pickle.dumps(Evil(mark)))
    code = CODE.format(str(mark))
    for settings, message in (
        ({"weights": evil}, "wants to call posix.mkdir"),
        ({"index": str(index)}, "a pickled file is refused: it wants to call posix.mkdir"),
        ({"name": code}, "is no name that PaddleClas knows here"),
        ({"inline": code}, "is no name that PaddleClas knows here"),
    ):
        done = run(workspace, checkout, settings)
        assert done.returncode == 2, done.stdout
        assert message in done.stdout.splitlines()[-1]
        assert done.stdout.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in done.stdout


def test_other_ways_to_unpickle(workspace, checkout, evil, mark, tmp_path):
    """Scripts that unpickle by themselves, Paddle's reader of CIFAR, and the loaders of static graphs."""
    archive = cifar_archive(tmp_path / "cifar.tar.gz", mark)
    static = tmp_path / "static.pdparams"
    shutil.copy(evil, static)
    acts = {
        "import pickle; pickle.load(open({!r}, 'rb'))": evil,
        "from pickle import load; load(open({!r}, 'rb'))": evil,
        "import paddle; paddle.vision.datasets.Cifar10({!r}, download=False)": archive,
        "import paddle; paddle.static.load_program_state({!r})": str(static)[:-9],
        "import helper; helper.pickle.loads(open({!r}, 'rb').read())": evil,
    }
    lines = []
    for code, path in acts.items():
        lines += [
            "try:",
            f"    {code.format(str(path))}",
            "except ValueError as error:",
            "    print('refused', error)",
        ]
    (checkout / "tools" / "train.py").write_text("\n".join(lines) + "\n")
    done = run(workspace, checkout, {})
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("refused a pickled file is refused: it wants to call posix.mkdir") == len(acts)


def test_archives_of_weights_stay_in_their_folder(arch, tmp_path):
    """PaddleClas unpacks what it has fetched."""
    download = importlib.import_module("ppcls.utils.download")
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "w.tar", "w") as tar:
        info = tarfile.TarInfo("w/../../../outside.txt")
        tar.addfile(info)
    with guard.guarded(), pytest.raises(Exception, match="outside"):
        download._decompress(str(tmp_path / "in" / "w.tar"))
    assert not (tmp_path / "outside.txt").exists()


def test_checkpoints_that_are_not_there(arch, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("Global: {checkpoints: out/nope}\n")
    with pytest.raises(ConfigError, match=r"^Global\.checkpoints: there is no file 'out/nope\.pdparams'"):
        bridge.check_config_file(str(path), [])
    with pytest.raises(FileNotFoundError, match=r"there is no config file 'nope\.yaml'"):
        bridge.check_config_file("nope.yaml", [])


def test_overrides_of_run_are_values(workspace, checkout, mark, tmp_path):
    good = tmp_path / "good.pdparams"
    save_file({"epoch": 3}, str(good))
    (tmp_path / "index.pkl").write_bytes(pickle.dumps({0: "a"}))
    done = run(
        workspace,
        checkout,
        {},
        f"Global.code={CODE.format(str(mark))}",
        "Global.rate=1e-3",
        "Global.nothing=None",
        "Global.list=[1, 2]",
        f"Global.weights={good}",
        f"Global.index={tmp_path / 'index.pkl'}",
        "Global.inline=1.0/4",
    )
    assert done.returncode == 0, done.stdout
    assert "'rate': 0.001, 'nothing': None, 'list': [1, 2]" in done.stdout
    for found in ("got {'epoch': 3}", "got {0: 'a'}", "got 0.25"):
        assert found in done.stdout


@pytest.mark.parametrize(("key", "value"), [("keep", 2), ("nan_policy", 1), ("checkpoints", "auto")])
def test_keys_that_paddleclas_would_ignore(arch, tmp_path, key, value):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({"Global": {key: value}}))
    with pytest.raises(ConfigError, match=rf"^Global\.{key}: PaddleClas' own engine"):
        bridge.check_config_file(str(path), [])


# --- data sets --------------------------------------------------------------------------------


def cifar_archive(path, mark):
    with tarfile.open(path, "w:gz") as tar:
        for name in ("data_batch_1", "test_batch"):
            data = pickle.dumps({b"data": Evil(mark), b"labels": [0]})
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_an_archive_of_cifar(tmp_path, mark):
    """Paddle unpickles it."""
    from paddle_attention.engine.datasets import Cifar10

    archive = cifar_archive(tmp_path / "cifar.tar.gz", mark)
    with pytest.raises(
        ValueError,
        match=r"cifar\.tar\.gz cannot be read: a pickled file is refused: it wants to call posix\.mkdir",
    ):
        Cifar10(None, str(archive))
    shutil.copy(ROOT / "setup.py", archive)
    with pytest.raises(ValueError, match=r"cifar\.tar\.gz cannot be read: "):
        Cifar10(None, str(archive))
