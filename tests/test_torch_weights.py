"""The authors' own numbers: their weights load, and give their outputs, gradients and statistics."""

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import paddle
import pytest
from layer_tester import parameters_of, relative, trainable

import paddle_attention as pa
from paddle_attention.checkpoint.torch_weights import _translate

DATA = Path(__file__).parent / "data"

# file (recorded from the authors' code), layer, tolerance of the gradient in train mode
AUTHORS = [
    ("se_pytorchinsight", lambda: pa.SEBlock(64, reduction=16), 1e-5),
    ("cbam_official", lambda: pa.CBAM(64, reduction=16), 1e-5),
    ("bam_official", lambda: pa.BAM(64), 1e-5),
    ("eca_k3", lambda: pa.ECA(64, k_size=3), 1e-5),
    ("sge", lambda: pa.SGE(64, groups=8), 1e-5),
    # A normalisation over two samples doubles float32 rounding many times over.
    ("sk_pytorchinsight_bottleneck", lambda: pa.SKBottleneck(256, 64), 5e-4),
    ("nonlocal_eg_2d_full", lambda: pa.NonLocal2D(32, sub_sample=False), 1e-5),
    ("nonlocal_concat_2d_sub", lambda: pa.NonLocal2D(32, mode="concatenation"), 1e-5),
    ("gc_att_add", lambda: pa.GCBlock(64, ratio=0.25), 1e-5),
    (
        "psa_collect_softmax",
        lambda: pa.PSA(32, 16, psa_type=0, shrink_factor=2, mask_h=13, mask_w=11),
        1e-5,
    ),
    ("psa_bidir_compact", lambda: pa.PSA(32, 16, psa_type=2, compact=True, mask_h=7, mask_w=6), 1e-5),
    ("da_pam", lambda: pa.PAM(32), 1e-5),
    ("da_cam", lambda: pa.CAM(32), 1e-5),
    ("oc_base", lambda: pa.BaseOC(32, 32, 16, 24, dropout=0.0), 1e-5),
    ("oc_asp", lambda: pa.ASPOC(32, 16, dilations=(2, 4, 6), dropout=0.0), 1e-5),
    ("cca", lambda: pa.CrissCrossAttention(32), 1e-5),
    ("emau", lambda: pa.EMAU(32, k=16), 1e-5),
]


def read(file):
    with np.load(DATA / f"{file}.npz") as archive:
        return dict(archive)


def part(data, prefix):
    return {k[len(prefix) + 1 :]: v for k, v in data.items() if k.startswith(prefix + "/")}


def run(layer, x, weight):
    """Output and gradient of ``sum(output * weight)`` with respect to the input."""
    layer.clear_gradients()
    x = paddle.to_tensor(x, stop_gradient=False)
    y = layer(x)
    (y * paddle.to_tensor(weight)).sum().backward()
    return y.numpy(), x.grad.numpy()


@pytest.mark.parametrize(("file", "build", "tolerance"), AUTHORS, ids=[a[0] for a in AUTHORS])
def test_authors_numbers(file, build, tolerance):
    data = read(file)
    data.update(
        {new: data[old] for old, new in (("y0", "y"), ("y_train0", "y_train"), ("r0", "r")) if old in data}
    )
    weights, layer = part(data, "sd"), build()
    pa.load_torch_weights(layer, weights)

    layer.eval()
    y, gradient = run(layer, data["x"], data["r"])
    assert relative(y, data["y"]) < 1e-5
    assert relative(gradient, data["gx"]) < 1e-5
    expected, _ = _translate(layer, {**weights, **part(data, "gsd")}, "authors")
    largest = max(abs(v).max() for v in part(data, "gsd").values())
    for key, parameter in trainable(layer):
        if file == "emau" and key.startswith("conv1"):
            assert parameter.grad is None
            continue
        got = parameter.grad.numpy()
        if abs(expected[key]).max() < 1e-5 * largest:  # a bias that a softmax cancels: 0 but for rounding
            assert abs(got).max() < 1e-5 * largest, key
        else:
            assert relative(got, expected[key]) < 1e-5, key

    if "y_train" in data:
        check_train_mode(layer, data, weights, tolerance)


def check_train_mode(layer, data, weights, tolerance):
    before, samples = parameters_of(layer), {}
    for name, sublayer in layer.named_sublayers():
        if hasattr(sublayer, "_variance"):
            sublayer.register_forward_pre_hook(
                lambda bn, x, name=name: samples.update({name: x[0].size // bn._num_features})
            )
    layer.train()
    y, gradient = run(layer, data["x"], data["r"])
    assert relative(y, data["y_train"]) < 1e-5
    assert relative(gradient, data["gx_train"]) < tolerance
    after, _ = _translate(layer, {**weights, **part(data, "sd_after_train")}, "authors")
    state, layers = parameters_of(layer), dict(layer.named_sublayers())
    for key in [k for k in state if k.endswith(("_mean", "_variance"))]:
        name, got = key.rpartition(".")[0], state[key]
        if key.endswith("_variance"):  # PyTorch tracks the unbiased variance, Paddle the biased one
            momentum, n = layers[name]._momentum, samples[name]
            got = momentum * before[key] + (got - momentum * before[key]) * n / (n - 1)
        assert not np.array_equal(state[key], before[key])
        assert relative(got, after[key]) < 2e-5, key
    if "mu_after" in data:
        assert relative(state["mu"], data["mu_after"]) < 1e-5


def test_psa_mask_of_the_authors():
    data = read("psamask_collect_small")
    x = paddle.to_tensor(data["x"], stop_gradient=False)
    y = pa.psa_mask(x, 0, 5, 7)
    theirs = data["y"].reshape(2, 42, 42).transpose(0, 2, 1)  # they have sources first
    assert np.array_equal(y.numpy(), theirs)
    (y * paddle.to_tensor(data["r"].reshape(2, 42, 42).transpose(0, 2, 1))).sum().backward()
    assert np.array_equal(x.grad.numpy(), data["gx"])


def test_multi_head_attention_of_pytorch():
    data = read("mha_self_keypad")
    layer = pa.load_torch_weights(pa.MultiHeadAttention(32, 4), part(data, "sd"))
    mask = paddle.to_tensor(data["mask/key_padding_mask"])
    assert mask.dtype == paddle.bool
    x = paddle.to_tensor(data["x"], stop_gradient=False)
    y = layer(x, key_padding_mask=mask)
    assert relative(y.numpy(), data["y"]) < 1e-5
    (y * paddle.to_tensor(data["r"])).sum().backward()
    assert relative(x.grad.numpy(), data["gx"]) < 1e-5
    weights = layer.attention_maps(x, key_padding_mask=mask)
    assert relative(weights.mean(axis=1).numpy(), data["attn"]) < 1e-5


def test_decoder_layer_of_pytorch():
    data = read("transformer_decoder_layer_causal")
    layer = pa.load_torch_weights(pa.TransformerDecoderLayer(32, 4, 64, dropout=0.0), part(data, "sd"))
    target, memory = (paddle.to_tensor(data[k], stop_gradient=False) for k in ("x0", "x1"))
    y = layer(target, memory, tgt_mask=paddle.to_tensor(data["mask/tgt_mask"]))
    assert relative(y.numpy(), data["y"]) < 1e-5
    assert relative(layer(target, memory, tgt_is_causal=True).numpy(), data["y"]) < 1e-5
    (y * paddle.to_tensor(data["r"])).sum().backward()
    assert relative(target.grad.numpy(), data["gx0"]) < 1e-5
    assert relative(memory.grad.numpy(), data["gx1"]) < 1e-5


# --- names and files ---------------------------------------------------------------------


def state(layer):
    return {k: v.numpy() for k, v in layer.state_dict().items()}


def test_timm_names():
    """timm's CBAM has the maps of the 7x7 convolution in the order [mean, max]."""
    layer = pa.CBAM(8, 2, bias=False)
    theirs = {
        "channel.fc1.weight": np.random.rand(4, 8, 1, 1),
        "channel.fc2.weight": np.random.rand(8, 4, 1, 1),
        "spatial.conv.conv.weight": np.random.rand(1, 2, 7, 7),
        **{
            f"spatial.conv.bn.{k}": np.random.rand(1)
            for k in ("weight", "bias", "running_mean", "running_var")
        },
        "spatial.conv.bn.num_batches_tracked": np.array(7),
    }
    pa.load_torch_weights(layer, theirs)
    np.testing.assert_allclose(
        layer.spatial_gate.conv.weight.numpy()[:, 0], theirs["spatial.conv.conv.weight"][:, 1]
    )
    np.testing.assert_allclose(layer.spatial_gate.bn._mean.numpy(), theirs["spatial.conv.bn.running_mean"])

    sk = pa.SKConv(8, groups=1, min_hidden=4)
    names = {
        "branches.0": "paths.0",
        "branches.1": "paths.1",
        "fc1.conv": "attn.fc_reduce",
        "fc1.bn": "attn.bn",
        "fc2": "attn.fc_select",
    }
    theirs = {}
    for key, value in state(sk).items():
        own = next(n for n in names if key.startswith(n + "."))
        key = names[own] + key[len(own) :]
        theirs[key.replace("_mean", "running_mean").replace("_variance", "running_var")] = value + 1
    before = state(sk)
    pa.load_torch_weights(sk, theirs, dialect="timm")
    assert all(np.allclose(v, before[k] + 1) for k, v in state(sk).items())


def test_a_model_with_attention():
    """Outside attention layers a model keeps its own names; inside, they are the authors'."""
    network = paddle.vision.models.resnet18(num_classes=3)
    pa.insert_attention(network, {"name": "SE", "reduction": 8}, stages=[4])
    theirs = {}
    for key, value in state(network).items():
        value = value.T if key == "fc.weight" else value
        if ".attention." in key:
            key = key.replace("fc1", "fc.0").replace("fc2", "fc.2")
            value = value[:, :, 0, 0] if key.endswith("weight") else value
        key = key.replace("_mean", "running_mean").replace("_variance", "running_var")
        theirs["module." + key] = value * 0.5  # as saved from DataParallel
    before = state(network)
    pa.load_torch_weights(network, {"state_dict": theirs})
    assert all(np.allclose(v, before[k] * 0.5) for k, v in state(network).items())


SE = {
    "fc.0.weight": np.ones((2, 8)),
    "fc.0.bias": np.ones(2),
    "fc.2.weight": np.ones((8, 2)),
    "fc.2.bias": np.ones(8),
}


def test_square_weights_are_transposed_also_in_data_parallel():
    theirs = {"weight": np.arange(9.0).reshape(3, 3), "bias": np.zeros(3)}
    plain = pa.load_torch_weights(paddle.nn.Linear(3, 3), theirs)
    wrapped = paddle.DataParallel(paddle.nn.Linear(3, 3))
    assert pa.load_torch_weights(wrapped, theirs) is wrapped
    convolution = {**theirs, "weight": theirs["weight"].reshape(3, 3, 1, 1)}
    for layer in (plain, wrapped._layers, pa.load_torch_weights(paddle.nn.Linear(3, 3), convolution)):
        assert np.array_equal(layer.weight.numpy(), theirs["weight"].T)


def test_only_axes_of_one_at_the_end_may_differ():
    theirs = {"weight": np.zeros((2, 2, 1, 3)), "bias": np.zeros(2)}
    with pytest.raises(ValueError, match=r"weight is \[2, 2, 1, 3\], not what weight \[2, 2, 3, 1\] needs"):
        pa.load_torch_weights(paddle.nn.Conv2D(2, 2, (3, 1)), theirs)


def test_integers_become_the_type_of_the_weights():
    theirs = {"weight": np.ones((3, 3), "int64"), "bias": [1, 2, 3]}
    layer = pa.load_torch_weights(paddle.nn.Linear(3, 3), theirs)
    assert layer.bias.numpy().tolist() == [1, 2, 3]


BAD = [
    ({k: v for k, v in SE.items() if k != "fc.2.bias"}, r"fc.2.bias is missing \(for fc2.bias\)"),
    ({**SE, "fc.4.bias": np.ones(8)}, "fc.4.bias is left over"),
    (
        {**SE, "fc.0.weight": np.ones((8, 2))},
        r"fc.0.weight is \[8, 2\], not what fc1.weight \[2, 8, 1, 1\] needs",
    ),
    ({**SE, "fc.0.weight": "seven"}, "fc.0.weight is not an array of numbers but str"),
    ({**SE, 3: np.ones(8)}, "names must be strings, but got 3"),
    ([1, 2], "not a dict of arrays but list"),
    ("weights.onnx", "give a .pth, .pt, .bin or .safetensors file"),
]


@pytest.mark.parametrize(("source", "message"), BAD)
def test_what_does_not_fit_changes_nothing(source, message, tmp_path):
    layer = pa.SEBlock(8, 4)
    before = state(layer)
    if isinstance(source, str):
        source = str(tmp_path / source)
        Path(source).write_bytes(b"not weights")
    with pytest.raises(ValueError, match=message):
        pa.load_torch_weights(layer, source)
    assert all(np.array_equal(v, before[k]) for k, v in state(layer).items())


def test_unknown_dialect():
    with pytest.raises(ValueError, match=r"dialect must be one of \['authors', 'timm'\], but got 'tim'"):
        pa.load_torch_weights(pa.SEBlock(8, 4), SE, dialect="tim")


def test_copies_must_be_equal():
    data = read("oc_base")
    weights = part(data, "sd")
    weights["stages.0.f_query.0.bias"] = weights["stages.0.f_query.0.bias"] + 1
    with pytest.raises(ValueError, match=r"f_query.0.bias differs from stages.0.f_key.0.bias"):
        pa.load_torch_weights(pa.BaseOC(32, 32, 16, 24), weights)


def write_safetensors(path, arrays, kind="F32"):
    header, content = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        data = np.asarray(array, "<f4")
        data = data.tobytes() if kind == "F32" else (data.view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    header = json.dumps(header).encode()
    Path(path).write_bytes(len(header).to_bytes(8, "little") + header + content)


def test_safetensors_of_its_own_package(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = str(tmp_path / "se.safetensors")
    safetensors.save_file({k: v.astype("float16") for k, v in SE.items()}, path)
    assert pa.load_torch_weights(pa.SEBlock(8, 4), path).fc1.weight.numpy().min() == 1
    write_safetensors(tmp_path / "own.safetensors", SE)
    assert all(
        np.array_equal(v, SE[k]) for k, v in safetensors.load_file(tmp_path / "own.safetensors").items()
    )


def test_files(tmp_path, monkeypatch):
    path = str(tmp_path / "se.safetensors")
    write_safetensors(path, SE)
    layer = pa.load_torch_weights(pa.SEBlock(8, 4), path)
    assert layer.fc1.weight.numpy().min() == 1
    write_safetensors(path, {k: v * 1.5 for k, v in SE.items()}, "BF16")
    assert pa.load_torch_weights(layer, path).fc1.weight.numpy().min() == 1.5
    Path(path).write_bytes(Path(path).read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"se.safetensors cannot be read as safetensors \(incomplete metadata"
    ):
        pa.load_torch_weights(layer, path)
    Path(path).write_bytes(Path(path).read_bytes()[:40])
    with pytest.raises(ValueError, match=r"se.safetensors cannot be read as safetensors"):
        pa.load_torch_weights(layer, path)
    with pytest.raises(FileNotFoundError, match=r"none.pth"):
        pa.load_torch_weights(layer, str(tmp_path / "none.pth"))

    # PyTorch is read with weights_only, and only where it is installed.
    path = str(tmp_path / "se.pth")
    Path(path).write_bytes(b"a pickle")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="needs PyTorch"):
        pa.load_torch_weights(layer, path)
    calls = []

    def load(path, **options):
        calls.append(options)
        return {k: v * 2 for k, v in SE.items()}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    pa.load_torch_weights(layer, path)
    assert calls == [{"map_location": "cpu", "weights_only": True}]
    assert layer.fc1.weight.numpy().min() == 2


# --- the command -------------------------------------------------------------------------


def convert(*arguments):
    from paddle_attention.cli import main

    return main("convert_torch_weights", [str(a) for a in arguments])


def test_command(tmp_path, capsys):
    source, target = tmp_path / "se.safetensors", tmp_path / "se.pdparams"
    write_safetensors(source, SE)
    assert convert(source, target, "--layer", "SE", "--channels", 8, "-a", "reduction=4") == 0
    assert f"4 tensors written to {target}" in capsys.readouterr().out
    layer = pa.SEBlock(8, 4)
    layer.set_state_dict(paddle.load(str(target)))
    assert layer.fc2.weight.numpy().min() == 1
    target.unlink()
    for arguments, message in (
        (("--layer", "SE"), "--layer needs --channels"),
        (("--layer", "SE", "--channels", 8, "-a", "reduction"), "'reduction': expected KEY=VALUE"),
        (("--layer", "SE", "--channels", 8, "-a", "reduce=4"), "did you mean 'reduction'"),
        (("--layer", "SE", "--channels", 8, "-a", "reduction=2"), "does not fit SEBlock"),
        (("--layer", "DAHead", "--channels", 64), "DAHead: .*out_channels"),
        (("--layer", "SEE", "--channels", 8), "unknown attention 'SEE'"),
        (("--config", "c.yaml", "--channels", 8), "belong to --layer"),
    ):
        assert convert(source, target, *arguments) == 2
        assert re.search(message, capsys.readouterr().err), message
    assert convert(source, tmp_path / "se.pth", "--layer", "SE", "--channels", 8) == 2
    assert "must end in .pdparams" in capsys.readouterr().err
    assert not target.exists()
