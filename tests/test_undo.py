"""Attention is taken out again, for good or for a while, and carried from network to network."""

import copy
import json
import os

import numpy as np
import paddle
import pytest
from modes import evaluating
from paddle.vision.models import resnet18, resnet50

from paddle_attention import (
    attention_disabled,
    build_attention,
    insert_attention,
    remove_attention,
    save_attention,
)
from paddle_attention.insertion import watch_attention

SPECIFICATIONS = {
    "residual": "SE",
    "identity": {"name": "CBAM", "at": "identity", "stages": [1, -1]},
    "before": {"name": "GCT", "at": "layer*.*.conv1", "before": True},
    "replacing": [{"name": "SKConv", "stages": 2, "groups": 1}, "ECA"],
    "several": [{"name": "SE", "reduction": 8}, {"name": "SE", "at": "block"}, {"name": "SE", "at": "stage"}],
}


def outputs(model):
    x = paddle.to_tensor(np.random.RandomState(0).standard_normal([2, 3, 64, 64]).astype("float32"))
    with paddle.no_grad():
        return evaluating(model)(x).numpy()


def randomise(model):
    """Random values for all attention, so that it shows."""
    for key, value in model.state_dict().items():
        if "attention" in key and "_variance" not in key:
            value.set_value(
                np.random.RandomState(len(key)).standard_normal(value.shape).astype("float32") * 0.3
            )


@pytest.mark.parametrize("specification", SPECIFICATIONS.values(), ids=SPECIFICATIONS)
def test_removed_attention_leaves_the_backbone(specification):
    model = resnet18()
    expected, keys, hooks = outputs(model), list(model.state_dict()), count_hooks(model)
    done = insert_attention(model, specification)
    randomise(model)
    assert np.abs(outputs(model) - expected).max() > 0
    assert sorted(remove_attention(model)) == sorted(insertion.key for insertion in done)
    np.testing.assert_array_equal(outputs(model), expected)
    assert list(model.state_dict()) == keys
    assert count_hooks(model) == hooks
    with watch_attention(model) as seen:
        pass
    assert seen.expected == ()
    assert remove_attention(model) == []
    assert insert_attention(model, specification) == done  # again


def count_hooks(model):
    layers = model.sublayers(include_self=True)
    return sum(len(x._forward_pre_hooks) + len(x._forward_post_hooks) for x in layers)


def test_a_replaced_convolution_returns_in_the_networks_type():
    model = resnet18()
    insert_attention(model, {"name": "SKConv", "stages": 1, "groups": 1})
    model.to(dtype="float64")
    remove_attention(model)
    assert {p.dtype for p in model.parameters()} == {paddle.float64}


@pytest.mark.parametrize("specification", SPECIFICATIONS.values(), ids=SPECIFICATIONS)
def test_attention_is_carried_to_another_network(specification, tmp_path):
    model, other = resnet18(), resnet18()
    other.set_state_dict(model.state_dict())
    done = insert_attention(model, specification)
    randomise(model)
    path = tmp_path / "attention.safetensors"
    saved = save_attention(model, path)
    assert set(saved) == {k for k in model.state_dict() if k.startswith(tuple(f"{i.key}." for i in done))}
    assert os.path.getsize(path) < 0.5 * sum(p.size for p in model.parameters()) * 4
    assert insert_attention(other, path) == done
    np.testing.assert_array_equal(outputs(other), outputs(model))
    assert save_attention(other, str(tmp_path / "again.safetensors")) == saved


def test_two_calls_are_carried(tmp_path):
    model, other = resnet18(), resnet18()
    insert_attention(model, "SE")
    insert_attention(model, {"name": "SE", "at": "layer1.0.bn2"}, input_shape=[3, 32, 32])
    randomise(model)
    save_attention(model, tmp_path / "a.safetensors")
    insert_attention(other, str(tmp_path / "a.safetensors"))
    for key, value in model.state_dict().items():
        if "attention" in key:
            np.testing.assert_array_equal(other.state_dict()[key].numpy(), value.numpy())


def test_what_does_not_fit_changes_nothing(tmp_path):
    model, path = resnet18(), tmp_path / "a.safetensors"
    insert_attention(model, [{"name": "SE", "reduction": 8}, {"name": "SKConv", "stages": 2, "groups": 1}])
    save_attention(model, path)
    other = resnet50()
    before, expected = list(other.state_dict()), outputs(other)
    with pytest.raises(ValueError, match=r"a\.safetensors: does not fit ResNet: "):
        insert_attention(other, path)
    assert list(other.state_dict()) == before
    np.testing.assert_array_equal(outputs(other), expected)
    with pytest.raises(ValueError, match="says itself where"):
        insert_attention(other, path, at="block")


def test_files_that_hold_no_attention(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(OSError, match=r"a\.safetensors"):
        insert_attention(resnet18(), path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.safetensors: "):
        insert_attention(resnet18(), path)
    from paddle_attention.checkpoint import save_weights

    save_weights({"a": paddle.zeros([1])}, str(path))
    with pytest.raises(ValueError, match="must be a file that save_attention wrote"):
        insert_attention(resnet18(), path)
    for text in (
        "[]",
        "{}",
        json.dumps({"calls": [3]}),
        json.dumps({"calls": [{"attention": [7], "input_shape": None}]}),
    ):
        from paddle_attention.files.safetensors import safetensors_bytes

        path.write_bytes(b"".join(safetensors_bytes({"a": np.zeros(1)}, {"paddle_attention": text})))
        with pytest.raises(ValueError, match=r"a\.safetensors: "):
            insert_attention(resnet18(), path)


def test_saving_needs_something_inserted(tmp_path):
    with pytest.raises(ValueError, match="nothing was inserted into ResNet itself"):
        save_attention(resnet18(), tmp_path / "a.safetensors")
    model = resnet18()
    insert_attention(model, "SE")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_attention(model, tmp_path / "a.pdparams")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        save_attention(model, tmp_path / "file" / "a.safetensors")


@pytest.mark.parametrize("at", ["residual", "identity", "pre", "block"])
def test_disabled_attention(at):
    model = resnet18()
    expected = outputs(model)
    insert_attention(model, "SE", at=at)
    randomise(model)
    attended = outputs(model)
    with attention_disabled(model) as keys:
        assert len(keys) == 8
        np.testing.assert_array_equal(outputs(model), expected)
    np.testing.assert_array_equal(outputs(model), attended)
    with pytest.raises(KeyError), attention_disabled(model):
        raise KeyError
    np.testing.assert_array_equal(outputs(model), attended)


def test_some_attention_is_disabled():
    model = resnet18()
    insert_attention(model, ["SE", {"name": "CBAM", "at": "stage"}])
    with attention_disabled(model, "SE") as keys:
        assert len(keys) == 8
        with attention_disabled(model, "layer4.*") as inner:  # what is disabled already stays so
            assert inner == ["layer4.1.attention"]
    with attention_disabled(model, ["CBAM", "layer1.0.*"]) as keys:
        assert len(keys) == 5
    with (
        pytest.raises(ValueError, match="which='GCT' matches no attention of ResNet"),
        attention_disabled(model, "GCT"),
    ):
        pass
    insert_attention(resnet := resnet18(), {"name": "SKConv", "groups": 1})
    with pytest.raises(ValueError, match="has replaced a convolution"), attention_disabled(resnet):
        pass


def test_copies_made_meanwhile_have_their_attention():
    """As an EMA's."""
    model = resnet18()
    insert_attention(model, "SE")
    randomise(model)
    attended = outputs(model)
    with attention_disabled(model), attention_disabled(model) as again:
        assert again == []  # they are already
        copied = copy.deepcopy(model)
    np.testing.assert_array_equal(outputs(copied), attended)
    np.testing.assert_array_equal(outputs(model), attended)


def test_only_what_was_inserted_is_carried(tmp_path):
    """Not layers of this library that the network has of its own; and keys that the replaced layer had as well."""

    def build():
        model = resnet18()
        model.own = build_attention("SE", 16)
        return model

    model, other, path = build(), build(), tmp_path / "a.safetensors"
    insert_attention(model, ["CBAM", {"name": "SplitAttention", "at": "layer1.0.conv1"}])
    assert not [key for key in save_attention(model, path) if key.startswith("own")]
    insert_attention(other, path)
    remove_attention(model.layer2)
    with pytest.raises(ValueError, match=r"attention 'layer2\.0\.bn2\.attention' is no longer in ResNet"):
        save_attention(model, path)


HOSTILE = [
    ({"version": 99, "calls": []}, "is of version 99, and this library reads 1"),
    (
        {"version": 1, "calls": [{"attention": ["SE"], "input_shape": "abc"}]},
        "input_shape must be .* but got 'abc'",
    ),
    (
        {"version": 1, "calls": [{"attention": ["SE"], "input_shape": [3, 10**5, 10**5]}]},
        "integers up to 8192",
    ),
    (
        {"version": 1, "calls": [{"attention": ["SE"], "input_shape": True}]},
        "input_shape must be .* but got True",
    ),
]


@pytest.mark.parametrize(("content", "message"), HOSTILE)
def test_hostile_files(content, message, tmp_path):
    from paddle_attention.files.safetensors import safetensors_bytes

    path = tmp_path / "a.safetensors"
    text = json.dumps(content)
    path.write_bytes(b"".join(safetensors_bytes({"a": np.zeros(1)}, {"paddle_attention": text})))
    with pytest.raises(ValueError, match=rf"a\.safetensors: .*{message}"):
        insert_attention(resnet18(), path)
    path.write_bytes(b"".join(safetensors_bytes({"a": np.zeros(1)}, {"paddle_attention": "[" * 100_000})))
    with pytest.raises(ValueError, match=r"a\.safetensors: "):
        insert_attention(resnet18(), path)
