import subprocess
import sys

import pytest
from paddle import nn

from paddle_attention import build_attention, get_attention, list_attentions, register_attention
from paddle_attention.registry import core as registry_module

FACTS = {
    "paper": "A Paper",
    "arxiv": None,
    "year": 2026,
    "domain": "channel",
    "computed_by": "nothing",
    "applied_by": "scale",
}


@pytest.fixture
def clean_registry(monkeypatch):
    list_attentions()  # so that the built-in mechanisms are in what is kept
    monkeypatch.setattr(registry_module, "_ENTRIES", dict(registry_module._ENTRIES))


class Plain(nn.Layer):
    def __init__(self, channels, width=1):
        super().__init__()
        self.channels, self.width = channels, width


def test_register_and_build(clean_registry):
    assert register_attention("Plain", **FACTS)(Plain) is Plain
    layer = build_attention("Plain", 7, width=3)
    assert (layer.channels, layer.width) == (7, 3)
    assert get_attention("Plain").year == 2026
    assert "Plain" in [entry.name for entry in list_attentions()]


class NoChannels(nn.Layer):
    def __init__(self, width):
        super().__init__()


BAD_REGISTRATIONS = [
    ("SE", Plain, {}, "'SE' is already registered as SEBlock"),
    ("Plain", Plain, {"domain": "colour"}, "domain must be one of .* but got 'colour'"),
    ("Plain", NoChannels, {}, r"must be 'channels', but its arguments are \['width'\]"),
    (
        "Plain",
        Plain,
        {"replaces_conv": True},
        r"must take out_channels and stride, but .* \['channels', 'width'\]",
    ),
]


@pytest.mark.parametrize(("name", "cls", "facts", "message"), BAD_REGISTRATIONS)
def test_bad_registrations(clean_registry, name, cls, facts, message):
    with pytest.raises(ValueError, match=message):
        register_attention(name, **{**FACTS, **facts})(cls)
    assert get_attention("SE").cls.__name__ == "SEBlock"


BAD_BUILDS = [
    (("CBMA", 8), {}, "unknown attention 'CBMA'; did you mean 'CBAM'"),
    (("xyz", 8), {}, r"unknown attention 'xyz' \(known: ASPOC, BAM, "),
    (("SE", 8), {"reductoin": 2}, "no argument 'reductoin'; did you mean 'reduction'"),
    (("SE", 8), {"channels": 2}, "channels is found from the network"),
]


@pytest.mark.parametrize(("arguments", "kwargs", "message"), BAD_BUILDS)
def test_bad_builds(arguments, kwargs, message):
    if "channels" in kwargs:
        with pytest.raises(ValueError, match=message):
            registry_module.check_arguments(arguments[0], kwargs)
    else:
        with pytest.raises(ValueError, match=message):
            build_attention(*arguments, **kwargs)


def test_entries_are_complete():
    for entry in list_attentions():
        assert entry.domain in registry_module.DOMAINS
        assert entry.computed_by
        assert entry.applied_by
        assert entry.arxiv is None or entry.arxiv[:2] == str(entry.year)[2:]
    assert {e.name for e in list_attentions() if e.replaces_conv} == {"SKConv", "SplitAttention"}
    assert {"SE", "PAM", "EMAU"} < {e.name for e in list_attentions() if e.takes_tokens}


def test_list_command(workspace):
    out = workspace.run("-m", "paddle_attention", "list").stdout
    for entry in list_attentions():
        assert any(line.startswith(f"{entry.name} ") and entry.paper in line for line in out.splitlines())


def test_import_is_light():
    """The package leaves Paddle alone until it is used, and then brings nothing else."""
    code = """
import sys, paddle_attention
assert 'paddle' not in sys.modules
import paddle
before = set(sys.modules)
paddle_attention.SEBlock, paddle_attention.insert_attention, paddle_attention.list_attentions()
new = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
assert new <= {'paddle', 'paddle_attention', 'numpy'}, new
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=registry_module.__file__.rsplit("/", 3)[0])


def test_prediction_leaves_the_engine_alone():
    """Neither predicting nor exporting imports the training engine."""
    code = """
import sys
from paddle_attention.cli import commands
from paddle_attention.cli.main import main

for command in ("predict", "export_model"):
    main(command, ["-c", "ppcls_configs/quick_start/se_resnet18_digits.yaml", "-o", "Infer.infer_imgs=nowhere",
                   "-o", "Global.save_inference_dir=nowhere"])
found = [name for name in sys.modules if name.startswith("paddle_attention.engine")]
assert not found, found
assert "paddle_attention.preprocess" in sys.modules
"""
    pytest.importorskip("paddleclas", reason="the extra 'ppcls' is not installed")
    root = registry_module.__file__.rsplit("/", 3)[0]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
