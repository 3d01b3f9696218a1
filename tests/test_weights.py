"""Reading and writing weights: nothing in a file is run, what does not fit is said, safetensors both ways."""

import json
import os
import pickle
import random
import re
import subprocess
import sys

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.vision.models import resnet18

from paddle_attention import insert_attention
from paddle_attention.checkpoint import (
    load_paddle_file,
    load_weights,
    own_parts,
    read_file,
    read_safetensors,
    read_state_dict,
    safetensors_bytes,
    save_file,
    save_weights,
)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k].numpy(), other[k].numpy()) for k in one)


# --- what Paddle writes is what is read --------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_paddle_saves(tmp_path, protocol):
    layer = nn.Linear(3, 2)
    schedule = paddle.optimizer.lr.StepDecay(0.1, 2)
    optimizer = paddle.optimizer.Adam(schedule, parameters=layer.parameters())
    layer(paddle.ones([1, 3])).sum().backward()
    optimizer.step()
    values = {
        "a.pdparams": layer.state_dict(),
        "a.pdopt": optimizer.state_dict(),
        "a.pdstates": {
            "metric": 0.5,
            "epoch": 3,
            "t": paddle.ones([2]),
            "deep": [{"x": (1, paddle.zeros([1]))}],
        },
    }
    for name, value in values.items():
        path = str(tmp_path / name)
        paddle.save(value, path, protocol=protocol)
        assert repr(load_paddle_file(path)) == repr(paddle.load(path))


def test_parts_of_large_arrays_are_joined(tmp_path):
    """Paddle cuts arrays of more than 1 GB under pickle protocol 2."""
    whole = np.arange(12, dtype="float32").reshape(3, 4)
    info = {"w": {"OriginShape": (3, 4), "slices": ["w@@.0", "w@@.1"]}}
    parts = {"w@@.0": whole.ravel()[:5], "w@@.1": whole.ravel()[5:], "UnpackBigParamInfor@@": info}
    path = tmp_path / "big.pdparams"
    path.write_bytes(pickle.dumps(parts, protocol=2))
    assert np.array_equal(load_paddle_file(str(path))["w"].numpy(), whole)


def test_python_2_files(tmp_path):
    """Old weights of PaddleClas were pickled by Python 2: bytes as latin-1 text."""
    array = np.array([1.5, -2.0], dtype="<f4")
    text = (
        b"\x80\x02}q\x00U\x01wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04"
        b"U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02f4q\nK\x00K\x01\x87q\x0bRq\x0c(K\x03"
        b"U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x08"
        + array.tobytes()
        + b"q\x0ftq\x10bs."
    )
    path = tmp_path / "old.pdparams"
    path.write_bytes(text)
    assert np.array_equal(load_paddle_file(str(path))["w"].numpy(), array)


# --- hostile and broken files ------------------------------------------------------------


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def bomb():
    value = [1]
    for _ in range(60):
        value = [value, value]
    return value


class Persistent(pickle.Pickler):
    def persistent_id(self, value):
        return "outside" if value == "outside" else None


OBJECTS = b"cnumpy\ndtype\n(U\x01OI00\nI01\ntR(I3\nU\x01|NNNI-1\nI-1\nI0\ntb"
POINTER = b"U\x08" + b"A" * 8
RAW = [
    # a number of type object: its eight bytes would be taken for a pointer
    (b"cnumpy.core.multiarray\nscalar\n(" + OBJECTS + POINTER + b"tR", "holds an array of 'O'"),
    # a structure of an object
    (b"cnumpy\ndtype\n(U\x02V8I00\nI01\ntR", "holds an array of 'V8'"),
    # an array that claims more than its bytes
    (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(I1000000000000\nt"
        b"cnumpy\ndtype\n(U\x02f4I00\nI01\ntRI00\nU\x04AAAAtb",
        "that its bytes do not fill",
    ),
    (b"cnumpy\nndarray\n((I8589934592\ntU\x02f4tR", "not callable"),
    # state for what reads the file
    (b"cbuiltins\neval\nN}U\x0c__defaults__K\x01K\x02\x86s\x86b", "wants to change what reads it"),
    (b"cbuiltins\ntuple\nN}U\x04callK\x01s\x86b", "wants to change what reads it"),
    (b"cnumpy\ndtype\n(U\x02f4I00\nI01\ntR(I3\nU\x01<N(U\x01at}NtNb", "[Ee]rror|structures|another form"),
]


@pytest.mark.parametrize(("value", "message"), RAW, ids=[m for _, m in RAW])
def test_hostile_opcodes(tmp_path, value, message):
    """In a process of its own: what is to be refused would end it."""
    path = tmp_path / "raw.pdparams"
    path.write_bytes(b"\x80\x02}U\x01w" + value + b"s.")
    code = (
        "import sys; from paddle_attention.checkpoint import read_file; from paddle_attention.checkpoint import pickles as serialization\n"
        "try:\n    read_file(sys.argv[1])\nexcept ValueError as error:\n    print(error)\n"
        "assert serialization._value_of_data.__defaults__ is None"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert re.search(message, done.stdout.splitlines()[-1]), done.stdout


HOSTILE = [
    (lambda mark: {"w": Calls(os.system, f"touch {mark}")}, "wants to call (posix|nt).system"),
    (lambda mark: {"w": Calls(eval, f"open({str(mark)!r}, 'w')")}, "TypeError|wants to evaluate"),
    (
        lambda mark: {"w": Calls(eval, f"open({str(mark)!r}, 'w')", {"data": 1})},
        "refused: it wants to evaluate",
    ),
    (lambda mark: {"w": Calls(exec, f"open({str(mark)!r}, 'w')")}, "wants to call builtins.exec"),
    (lambda mark: {"w": Calls(getattr, "text", "upper")}, "wants to call builtins.getattr"),
    (
        lambda mark: {"w": np.array([Calls(os.system, f"touch {mark}")], dtype=object)},
        "holds an array of 'O8'",
    ),
    (lambda mark: {"w": np.array(["text"])}, "holds an array of 'U4'"),
    (lambda mark: {"w": Calls(np.load, str(mark))}, "wants to call numpy"),
    (lambda mark: {"w": paddle.float32}, "wants to call"),
]


@pytest.mark.parametrize(("make", "message"), HOSTILE, ids=[m for _, m in HOSTILE])
def test_hostile_files_are_refused(tmp_path, make, message):
    mark = tmp_path / "mark"
    path = tmp_path / "hostile.pdparams"
    path.write_bytes(pickle.dumps(make(mark)))
    layer = nn.Linear(2, 2)
    before = layer.weight.numpy()
    with pytest.raises(ValueError, match=rf"hostile\.pdparams .*({message})"):
        load_weights(layer, str(path))
    assert not mark.exists()
    assert np.array_equal(layer.weight.numpy(), before)


def test_paddle_itself_would_run_them(tmp_path):
    """The reason for all this; if it ever fails, Paddle has become safe."""
    mark, path = tmp_path / "mark", tmp_path / "hostile.pdparams"
    path.write_bytes(pickle.dumps({"w": Calls(os.system, f"touch {mark}")}))
    code = f"import paddle\ntry:\n    paddle.load({str(path)!r})\nexcept Exception:\n    pass"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert mark.exists()


@pytest.mark.parametrize(
    ("value", "message"), [(nested(900), "no state_dict|not a state_dict"), (bomb(), "not a")]
)
def test_deep_and_shared_containers(tmp_path, value, message):
    path = tmp_path / "deep.pdparams"
    sys.setrecursionlimit(20000)
    try:
        path.write_bytes(pickle.dumps(value))
    finally:
        sys.setrecursionlimit(1000)
    with pytest.raises(ValueError, match=message + "|nested too deeply"):
        load_weights(nn.Linear(2, 2), str(path))


def test_references_to_outside_are_refused(tmp_path):
    path = tmp_path / "outside.pdparams"
    with open(path, "wb") as file:
        Persistent(file).dump({"w": "outside"})
    with pytest.raises(ValueError, match="refers to objects outside the file"):
        read_file(str(path))


@pytest.mark.parametrize("ending", [".pdparams", ".safetensors"])
def test_damaged_files(tmp_path, ending):
    """Cut anywhere or with any byte changed, a file loads as it is or ends in one error that names it."""
    layer, path = nn.Linear(3, 2), str(tmp_path / ("w" + ending))
    save_weights(layer.state_dict(), path)
    with open(path, "rb") as file:
        whole = file.read()
    generator, refused = random.Random(0), []
    damaged = [whole[:n] for n in range(0, len(whole), 7)]
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(3):
            content[generator.randrange(len(content))] = generator.randrange(256)
        damaged.append(bytes(content))
    for content in damaged:
        with open(path, "wb") as file:
            file.write(content)
        before = {k: v.numpy() for k, v in layer.state_dict().items()}
        try:
            load_weights(layer, path)
        except ValueError as error:
            refused.append(str(error))
            after = {k: v.numpy() for k, v in layer.state_dict().items()}
            assert all(np.array_equal(after[k], v, equal_nan=True) for k, v in before.items())
    assert len(refused) > len(whole) // 7
    assert all("w" + ending in message and "\n" not in message for message in refused)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "is not a state_dict but list"),
        ({"weight": "text"}, "its entry 'weight' is no tensor"),
        ({"weight": {"a": 1}}, "its entry 'weight' is no tensor"),
        ({1: np.ones(2)}, "its entry 1 is no tensor"),
        (
            {"wieght": np.ones([2, 2]), "b": np.ones(2)},
            r"none of its 2 tensors \(wieght, b\) .*did you mean 'weight'",
        ),
        (
            {"weight": np.ones([2, 3]), "bias": np.ones(2)},
            r"1 of another shape \(weight \[2, 3\] in the file, \[2, 2\]",
        ),
        ({"weight": np.ones([2, 2])}, r"1 missing \(bias\)"),
        ({"weight": np.ones([2, 2]), "bias": np.ones(2), "x": np.ones(2)}, r"1 unknown to the network \(x\)"),
    ],
)
def test_what_does_not_fit(tmp_path, value, message):
    path = tmp_path / "other.pdparams"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError, match=message):
        load_weights(nn.Linear(2, 2), str(path))


def test_a_missing_file_names_the_nearest(tmp_path):
    save_file({"w": paddle.ones([1])}, str(tmp_path / "best_model.pdparams"))
    with pytest.raises(
        FileNotFoundError, match=r"best_modle\.pdparams'; did you mean 'best_model\.pdparams'"
    ):
        load_weights(nn.Linear(2, 2), str(tmp_path / "best_modle"))


# --- safetensors -------------------------------------------------------------------------


def test_safetensors_round_trip(tmp_path):
    state = {
        "f32": paddle.randn([2, 3]),
        "f64": paddle.randn([3]).astype("float64"),
        "f16": paddle.randn([4]).astype("float16"),
        "bf16": paddle.to_tensor([1.0, -2.5, 3e38, 1e-40]).astype("bfloat16"),
        "i64": paddle.arange(5),
        "flag": paddle.to_tensor([True, False]),
        "scalar": paddle.to_tensor(2.5),
        "empty": paddle.zeros([0, 3]),
        "numpy": np.arange(6, dtype="int32").reshape(2, 3)[:, ::-1],
    }
    path = str(tmp_path / "all.safetensors")
    save_weights(state, path)
    got = read_safetensors(path)
    assert list(got) == list(state)
    for key, value in state.items():
        expected = value.astype("float32") if key == "bf16" else value
        assert np.array_equal(got[key], np.asarray(expected)), key
        assert got[key].shape == tuple(np.shape(np.asarray(expected))), key
    header = json.loads((tmp_path / "all.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}")
    assert header["bf16"]["dtype"] == "BF16"
    assert os.listdir(tmp_path) == ["all.safetensors"]


def test_the_format_of_its_own_package(tmp_path):
    """The bytes by hand, from the format's description."""
    pieces = b"".join(safetensors_bytes({"a": np.array([1.0, 2.0], "<f4"), "b": np.array([[3]], "<i8")}))
    length = int.from_bytes(pieces[:8], "little")
    assert length % 8 == 0
    assert json.loads(pieces[8 : 8 + length]) == {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "I64", "shape": [1, 1], "data_offsets": [8, 16]},
    }
    assert pieces[8 + length :] == np.array([1.0, 2.0], "<f4").tobytes() + np.array([3], "<i8").tobytes()


def safetensors(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(name="a", dtype="F32", shape=(2,), offsets=(0, 8)):
    return {name: {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header too small"),
        (b"\xff" * 16, "header too large"),
        (safetensors(b"[1]"), "invalid JSON"),
        (safetensors(b"{"), "invalid JSON"),
        (safetensors(b"[" * 100000), "invalid JSON"),
        (safetensors(b"\xff{}"), "invalid UTF-8"),
        (safetensors({"a": {"dtype": "F32", "shape": [2]}}), "missing field `data_offsets`"),
        (safetensors(entry(offsets=[0, 16])), "invalid shape"),
        (safetensors(entry(shape=[3])), "invalid shape"),
        (safetensors(entry(shape=[-2])), "integer `-2`"),
        (safetensors(entry(shape=[2.5])), r"floating point `2\.5`"),
        (safetensors(entry(), b"\0" * 9), "not fully covered"),
        (safetensors(entry(), b"\0" * 7), "not fully covered|incomplete"),
        (
            safetensors({**entry(), **entry("b", offsets=[4, 12])}, b"\0" * 12),
            "invalid offset for tensor `b`",
        ),
        (
            safetensors({**entry(), **entry("b", offsets=[12, 20])}, b"\0" * 20),
            "invalid offset for tensor `b`",
        ),
        (
            safetensors(
                json.dumps(entry())[:-1].encode() + b", " + json.dumps(entry(dtype="I32"))[1:].encode()
            ),
            "the name 'a' twice",
        ),
        (
            safetensors({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}),
            "is of type F8_E4M3",
        ),
    ],
)
def test_bad_safetensors(tmp_path, content, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.safetensors cannot be read as safetensors .*{message}"):
        read_state_dict(str(path))


def test_only_tensors_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"a is of type <U1|a is of type \|?[<>]?U1"):
        save_weights({"a": "x"}, str(tmp_path / "x.safetensors"))
    with pytest.raises(ValueError, match=r"must end in \.pdparams or \.safetensors"):
        save_weights({}, str(tmp_path / "x.npz"))
    assert os.listdir(tmp_path) == []


def test_convert_weights_command(tmp_path, workspace):
    state = nn.Linear(3, 2).state_dict()
    save_file(state, str(tmp_path / "a.pdparams"))
    for source, target in (("a.pdparams", "b.safetensors"), ("b.safetensors", "c.pdparams")):
        done = workspace.run(
            "-m", "paddle_attention", "convert_weights", tmp_path / source, tmp_path / target
        )
        assert f"2 tensors written to {tmp_path / target}" in done.stdout
    assert same(read_state_dict(str(tmp_path / "c.pdparams")), state)
    layer = nn.Linear(3, 2)
    load_weights(layer, str(tmp_path / "b.safetensors"))
    assert same(layer.state_dict(), state)


# --- backbones into attention networks ---------------------------------------------------


def test_backbone_weights_where_convolutions_were_replaced(tmp_path):
    """SKConv takes the place of convolutions: what the file has of those is left aside, and told."""
    path = str(tmp_path / "resnet18.pdparams")
    save_file(resnet18().state_dict(), path)
    model = resnet18()
    insert_attention(model, [{"name": "SKConv", "stages": 4}, {"name": "SE", "stages": 1}])
    with pytest.raises(ValueError, match="missing"):
        load_weights(model, path)
    report = load_weights(model, path, skip_attention=True)
    assert report.replaced == ("layer4.0.conv1.weight", "layer4.1.conv1.weight")
    assert {k.partition(".conv1.")[0] for k in report.skipped_attention if "layer4" in k} == {
        "layer4.0",
        "layer4.1",
    }
    assert any("layer1.0.bn2.attention" in k for k in report.skipped_attention)
    assert report.loaded == len(resnet18().state_dict()) - 2
    assert "2 in the file of replaced convolutions not used (layer4.0.conv1.weight" in str(report)


def test_own_parts():
    """Attention, replacements and the classifier are not the backbone."""
    model = resnet18()
    insert_attention(
        model, [{"name": "SKConv", "stages": 4, "blocks": 1}, {"name": "SE", "stages": 1, "blocks": 1}]
    )
    own = own_parts(model)
    names = {n.rpartition(".")[0] for n, _ in model.named_parameters() if n.startswith(own)}
    assert "fc" in names
    assert {n for n in names if n.startswith("layer1")} == {
        "layer1.0.bn2.attention.fc1",
        "layer1.0.bn2.attention.fc2",
    }
    assert all(n.startswith("layer4.0.conv1.") for n in names if n.startswith("layer4"))


def test_a_table_of_16_gigabytes(tmp_path):
    """A few bytes that make Python's unpickler allocate one."""
    path = tmp_path / "w.pdparams"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(ValueError, match="numbers an object 2147483647, more than it can have"):
        read_state_dict(str(path))
