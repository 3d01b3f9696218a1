"""Recipes: which YAMLs the embedded engine takes, and batches of several image sizes."""

import copy
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from paddleclas_home import HOME, OLD
from test_engine import base, build_small  # noqa: F401 - a fixture

from paddle_attention.cli.recipes import own_reasons, recipe_reasons, summary
from paddle_attention.config import ConfigError, DataError
from paddle_attention.engine import Engine, check_recipe
from paddle_attention.engine.data import build_loader
from paddle_attention.engine.optim import build_optimizer
from paddle_attention.ppcls.starts import ATTENTION, prepare

ROOT = Path(__file__).parent.parent


def several_sizes(config, **sampler):
    config = copy.deepcopy(config)
    part = config["DataLoader"]["Train"]
    part["dataset"]["name"] = "MultiScaleDataset"
    crop = {"RandCropImage": {"size": 8, "use_log_aspect": True}}
    part["dataset"]["transform_ops"].insert(1, crop)
    part["sampler"] = {
        "name": "MultiScaleSampler",
        "scales": [16, 8, [24, 8]],
        "first_bs": 4,
        "divided_factor": 8,
    }
    part["sampler"].update(sampler)
    return config


def test_batches_of_several_sizes(base):  # noqa: F811
    """Each batch has one size and the pixels of 4 images of 16 x 16, at most; every image comes once."""
    loader = build_loader(several_sizes(base), "Train", 10)
    seen = []
    for images, labels in loader:
        assert (
            images.shape[0]
            == labels.shape[0]
            == {(16, 16): 4, (8, 8): 16, (8, 24): 5}[tuple(images.shape[2:])]
        )
        seen.append((tuple(images.shape[2:]), images.numpy()))
        assert all("digits" in name for name in loader.names())
    assert {shape for shape, _ in seen} == {(16, 16), (8, 8), (8, 24)}
    assert len(seen) == len(loader)
    read = [i % 96 for batch in loader._choose(1) for i in batch]
    assert set(read) == set(range(96))
    assert len(read) - 96 < 16  # the last batch is filled from the beginning


def test_they_are_the_same_after_an_interruption(base):  # noqa: F811
    whole, rest = (
        build_loader(several_sizes(base), "Train", 10),
        build_loader(several_sizes(base), "Train", 10),
    )
    rest.epoch, rest.first = 3, 2
    whole.epoch = 3
    for (expected, _), (got, _) in zip(list(whole)[2:], rest, strict=True):
        np.testing.assert_array_equal(got.numpy(), expected.numpy())
    first, second = build_loader(several_sizes(base), "Train", 10)._choose(1), whole._choose(2)
    assert first != second
    assert build_loader(several_sizes(base, seed=5), "Train", 10)._choose(1) != first
    assert build_loader(several_sizes(base, shuffle=False), "Train", 10)._choose(1)[0][:3] == [
        i + 96 * (build_loader(several_sizes(base, shuffle=False), "Train", 10)._choose(1)[0][0] // 96)
        for i in range(3)
    ]


def test_one_size_outside_training(base):  # noqa: F811
    loader = build_loader(several_sizes(base, is_training=False), "Train", 10)
    assert {tuple(images.shape) for images, _ in loader} == {(4, 3, 16, 16)}


def test_a_network_is_trained_on_several_sizes(base, tmp_path):  # noqa: F811
    config = several_sizes(base)
    config["Global"].update(epochs=2, output_dir=str(tmp_path))
    config["DataLoader"]["Train"]["loader"]["num_workers"] = 1
    Engine(config, build_small, "train").train()
    assert (tmp_path / "Small" / "latest.pdparams").exists() or list(tmp_path.rglob("latest.pdparams"))


BAD = [
    ({"scales": []}, r"scales must be a list of at least one size, but got \[\]"),
    ({"scales": 32}, "scales must be a list of at least one size, but got 32"),
    ({"scales": [16, "8"]}, "scales must be sides in pixels or .* but one is '8'"),
    ({"scales": [16, 4]}, r"scales has \(4, 4\), less than divided_factor=8"),
    ({"name": "DistributedBatchSampler"}, "MultiScaleDataset and MultiScaleSampler go together"),
]


@pytest.mark.parametrize(("sampler", "message"), BAD)
def test_bad_samplers(base, sampler, message):  # noqa: F811
    with pytest.raises(ConfigError, match=message):
        build_loader(several_sizes(base, **sampler), "Train", 10)


def test_several_sizes_need_a_crop(base):  # noqa: F811
    config = several_sizes(base)
    del config["DataLoader"]["Train"]["dataset"]["transform_ops"][1]
    with pytest.raises(
        ConfigError, match="MultiScaleDataset needs one of RandCropImage, ResizeImage, CropImage"
    ):
        build_loader(config, "Train", 10)
    with pytest.raises(ConfigError, match="MultiScaleDataset needs one of"):
        check_recipe(config)


def test_a_key_that_paddleclas_ignores_is_told(log_lines):
    config = {
        "Optimizer": {"name": "AdamW", "clip_grad": 5.0, "lr": {"name": "Cosine", "learning_rate": 0.1}}
    }
    optimizer, _ = build_optimizer(config, paddle.nn.Linear(1, 1), 1, 1)
    assert optimizer._grad_clip is None
    assert any("clip_grad has no effect: PaddleClas' AdamW ignores it" in line for line in log_lines)


def test_the_configs_of_this_library_are_accepted():
    reasons = recipe_reasons(str(ROOT / "ppcls_configs"))
    assert len(reasons) > 80
    assert set(reasons.values()) == {""}
    assert summary(reasons) == []


def test_reasons_name_the_key(base, tmp_path):  # noqa: F811
    for name, change in (("good", {}), ("bad", {"epochs": "ten"}), ("dali", {"use_dali": True})):
        config = copy.deepcopy(base)
        config["Global"].update(change)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "list.yaml").write_text("- 1\n")
    reasons = recipe_reasons(str(tmp_path))
    assert reasons["good.yaml"] == ""
    assert reasons["bad.yaml"] == "Global.epochs: must be an integer, but got 'ten'"
    assert reasons["dali.yaml"].startswith("Global.use_dali: True is not supported")
    assert "must hold sections" in reasons["list.yaml"]
    assert [row[0] for row in summary(reasons)] == ["1", "1", "1"]
    with pytest.raises(FileNotFoundError, match="there is no YAML file below"):
        recipe_reasons(str(tmp_path / "nowhere"))


RECIPE = {
    "Global": {"device": "gpu", "pretrained_model": "x", "use_dali": True, "epochs": 9},
    "AMP": {"use_amp": True, "level": "O2"},
    "Arch": {
        "name": "DistillationModel",
        "models": [
            {"Teacher": {"name": "ResNet50", "pretrained": True}},
            {"Student": {"name": "RecModel", "Backbone": {"name": "ResNet18", "pretrained": True}}},
        ],
        "class_num": 3,
    },
    "DataLoader": {
        "Train": {
            "dataset": {"name": "MultiLabelDataset", "image_root": "/nowhere", "cls_label_path": "train.txt"},
            "sampler": {"name": "PKSampler", "batch_size": 256, "sample_per_id": 8},
            "loader": {"num_workers": 8},
        },
        "Eval": {"dataset": {"name": "LogoDataset", "image_root": "/", "cls_label_path": "test.txt"}},
    },
}


def test_recipes_are_prepared_for_a_try(tmp_path):
    before = copy.deepcopy(RECIPE)
    changed = prepare(RECIPE, "/images", str(tmp_path))
    assert before == RECIPE
    assert changed["Global"]["device"] == "cpu"
    assert changed["Global"]["pretrained_model"] is None
    assert changed["AMP"] == {"use_amp": False, "level": "O1"}
    teacher, student = changed["Arch"]["models"]
    assert teacher["Teacher"] == {"name": "ResNet50", "pretrained": False}
    backbone = {"name": "AttentionNet", "backbone": "ResNet18", "attention": ATTENTION, "pretrained": False}
    assert student["Student"] == {"name": "RecModel", "Backbone": backbone}
    part = changed["DataLoader"]["Train"]
    assert part["dataset"]["image_root"] == "/images"
    assert Path(part["dataset"]["cls_label_path"]).read_text().splitlines()[:2] == [
        "0.jpg\t0,1,0",
        "1.jpg\t1,0,1",
    ]
    assert part["sampler"] == {"name": "PKSampler", "batch_size": 4, "sample_per_id": 2}
    assert part["loader"] == {"num_workers": 0}
    logos = changed["DataLoader"]["Eval"]["dataset"]["cls_label_path"]
    assert Path(logos).read_text().startswith("0\t1\t-\t0.jpg")


@pytest.mark.parametrize("text", ["[1]", "{", '{"a.yaml": null}', "5"])
def test_damaged_results(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"results\.json is (no JSON|not what this command has written).* remove it"
    ):
        list(own_reasons(str(tmp_path), "nowhere", ["a.yaml"], 1, 1, str(path)))


@pytest.mark.skipif(not HOME or OLD, reason="PADDLECLAS_HOME names no PaddleClas HEAD")
def test_recipes_start_in_paddleclas(workspace, tmp_path):
    """A good recipe starts, others say why not; a second run goes on from what is done."""
    good = yaml.safe_load(
        (Path(HOME) / "ppcls/configs/quick_start/new_user/ShuffleNetV2_x0_25.yaml").read_text()
    )
    bad = copy.deepcopy(good)
    bad["Arch"]["name"] = "ShuffelNet"
    (tmp_path / "a").mkdir()
    for name, recipe in (("good", good), ("bad", bad), ("none", {"Global": {"epochs": 1}})):
        (tmp_path / "a" / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    results = tmp_path / "results.json"
    command = ["-m", "paddle_attention", "recipes", str(tmp_path / "a"), "--paddleclas", HOME]
    text = workspace.run(*command, "--results", str(results)).stdout
    assert "| all | 3 | 2 | 1 |" in text  # the embedded engine does not build the networks here
    found = json.loads(results.read_text())
    assert found["good.yaml"] == ""
    assert "ShuffelNet" in found["bad.yaml"]
    assert found["none.yaml"] == "is no recipe for training: it has no Arch"
    found["bad.yaml"] = ""
    results.write_text(json.dumps(found))
    assert "| all | 3 | 2 | 2 |" in workspace.run(*command, "--results", str(results)).stdout


@pytest.mark.skipif(not HOME or OLD, reason="PADDLECLAS_HOME names no PaddleClas HEAD")
def test_most_of_paddleclas_imagenet_recipes_are_accepted():
    reasons = recipe_reasons(str(Path(HOME) / "ppcls/configs/ImageNet"))
    refused = {path: reason for path, reason in reasons.items() if reason}
    assert len(reasons) - len(refused) >= 310, refused


def test_a_missing_class_num_is_told_before_training(base):  # noqa: F811
    config = copy.deepcopy(base)
    del config["Arch"]["class_num"]
    Engine(copy.deepcopy(config), build_small, "train")  # which has 10

    def build_large(config, mode):
        network = build_small(config, mode)
        network.fc = paddle.nn.Linear(16, 1000)
        return network

    with pytest.raises(
        ConfigError, match=r"Arch\.class_num: missing, .* 1000 classes; .* up to 9: write class_num: 10"
    ):
        Engine(config, build_large, "train")


@pytest.mark.parametrize("name", ["RecModel", "DistillationModel"])
def test_networks_that_return_dicts_are_refused(base, name):  # noqa: F811
    """The embedded engine's losses take logits."""
    config = copy.deepcopy(base)
    config["Arch"] = {"name": name}
    with pytest.raises(ConfigError, match=rf"Arch\.name: '{name}', which returns a dict, is not supported"):
        check_recipe(config)


def test_a_short_list_of_classes_is_told_before_training(base, tmp_path):  # noqa: F811
    config = copy.deepcopy(base)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{i} digit\n" for i in range(9)))
    config["Infer"]["PostProcess"]["class_id_map_file"] = str(names)
    message = r"Infer\.PostProcess\.class_id_map_file: .*names\.txt names 9 classes of the 10 .* class 9 has no name"
    for mode in ("train", "infer"):
        with pytest.raises(ConfigError, match=message):
            Engine(copy.deepcopy(config), build_small, mode)
    config["Infer"]["PostProcess"]["class_id_map_file"] = str(tmp_path / "nowhere.txt")
    Engine(config, build_small, "train")  # not needed to train


def test_all_images_are_read_beforehand(base, tmp_path, log_lines):  # noqa: F811
    config = copy.deepcopy(base)
    config["Global"]["output_dir"] = str(tmp_path)
    Engine(config, build_small, "train").check_data()
    assert "146 images were read; all are good" in log_lines
    lines = Path(config["DataLoader"]["Eval"]["dataset"]["cls_label_path"]).read_text().splitlines()
    (tmp_path / "bad.bmp").write_bytes(b"no image")
    (tmp_path / "list.txt").write_text(
        "\n".join([*lines, f"{tmp_path / 'bad.bmp'} 3", f"{tmp_path / 'bad.bmp'} 4"])
    )
    config["DataLoader"]["Eval"]["dataset"]["cls_label_path"] = str(tmp_path / "list.txt")
    with pytest.raises(
        DataError,
        match=r"image .*bad\.bmp: .* \(2 of 148 images cannot be used; all are listed in .*bad_images",
    ):
        Engine(config, build_small, "train").check_data()
    assert len((tmp_path / "bad_images.txt").read_text().splitlines()) == 2


def test_the_option_reads_them(workspace):
    done = workspace.run(
        ROOT / "tools/train.py", "-c", "se_resnet18_digits.yaml", "--check-data", "-o", "Global.epochs=1",
        "-o", "DataLoader.Train.sampler.batch_size=1000", "-o", "Global.output_dir=./output/checked",
    )  # fmt: skip
    assert "1797 images were read; all are good" in done.stdout
    assert "[Train][Epoch 1/1]" in done.stdout
    refused = workspace.run(
        ROOT / "tools/train.py",
        "-c",
        "se_resnet18_digits.yaml",
        "--check-data",
        "--paddleclas",
        ".",
        check=False,
    )
    assert refused.returncode == 2
    assert "--check-data belongs to the embedded engine" in refused.stdout


def test_evaluation_begins_at_an_epoch(base, tmp_path, log_lines):  # noqa: F811
    config = copy.deepcopy(base)
    config["Global"].update(epochs=4, start_eval_epoch=3, output_dir=str(tmp_path))
    Engine(config, build_small, "train").train()
    evaluated = [line for line in log_lines if "[Eval][Epoch" in line and "[Avg]" in line]
    assert [line.partition("[Epoch ")[2][0] for line in evaluated] == ["3", "4"]
