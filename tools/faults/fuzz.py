"""Inputs that nobody would write: each must be taken, or refused by an error that a tool shows in one line.

Binary formats are mutated byte by byte from good files; configurations, lists and
overrides are made by hypothesis out of what the keys may and may not hold.
"""

import copy
import io
import os
import random
import resource
import time
import traceback
from collections import Counter

import numpy as np
import paddle
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from paddle_attention import files
from paddle_attention.checkpoint import load_paddle_file, read_safetensors, save_file, save_weights
from paddle_attention.config import apply_override, check_config, read_config
from paddle_attention.engine import Engine
from paddle_attention.engine.datasets import ImageNetDataset
from paddle_attention.preprocess import build_transforms, check_image

from .runs import Child, Row

_EXPECTED = (ValueError, OSError)  # what the command line shows in one line
_SLOW = 20  # seconds for one input
_MEMORY = 6 << 30  # bytes of address space for a child
_WORDS = (
    b"\x80\x04",
    b"cos\nsystem\n",
    b"\xff" * 8,
    b"\0" * 8,
    b"(",
    b"t.",
    b"R",
    b"b",
    b"{",
    b'"',
    b"[" * 50,
)


def mutate(chance, data):
    """``data`` with one to four small changes."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 2:
            del data[at : at + chance.randint(1, 16)]
        elif kind == 3:
            data[at:at] = chance.choice(_WORDS)
        elif kind == 4:
            start = chance.randrange(len(data) + 1)
            data[at:at] = data[start : start + chance.randint(1, 32)]
        else:
            del data[at:]
    return bytes(data)


def _try(action, value, outcomes, seen):
    """Call ``action(value)``; keep what is neither a result nor an expected error."""
    began = time.monotonic()
    try:
        action(value)
        outcomes["taken"] += 1
    except _EXPECTED:
        outcomes["refused"] += 1
    except Exception as error:
        outcomes["failed"] += 1
        frames = traceback.extract_tb(error.__traceback__)
        where = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno}" for f in frames[:-4:-1])
        seen.setdefault(f"{type(error).__name__}: {error}"[:200] + f" ({where})", repr(value)[:200])
    if time.monotonic() - began > _SLOW:
        outcomes["failed"] += 1
        seen.setdefault("slow", repr(value)[:200])


def _binary(name, good, action, times, path):
    """Mutants of the files ``good`` by ``action``, which is given the path of each."""

    def work():
        chance, outcomes, seen = random.Random(3), Counter(), {}
        contents = [p.read_bytes() for p in good]
        for i in range(times):
            path.write_bytes(mutate(chance, contents[i % len(contents)]))
            _try(action, str(path), outcomes, seen)
        _report(outcomes, seen)

    return name, work


def _generated(name, strategy, action, times):
    """``times`` values of a hypothesis strategy by ``action``."""

    def work():
        outcomes, seen = Counter(), {}

        @seed(4)
        @settings(
            max_examples=times,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def one(value):
            _try(action, value, outcomes, seen)

        one()
        _report(outcomes, seen)

    return name, work


def _report(outcomes, seen):
    for message, value in seen.items():
        print(f"FAILED {message} from {value}")
    print(f"OUTCOMES {outcomes['taken']} {outcomes['refused']} {outcomes['failed']}", flush=True)


# --- what is read ---------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from(
        ["", "abc", "1", "None", "../x", "SE", "ResNet18", "1.0/0", "e", "[", "\0", "é", "x" * 300]
    ),
    st.text(max_size=8),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


def _paths(node, path=()):
    """Key paths of all that stands in a configuration."""
    yield path
    for key, value in (
        node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    ):
        yield from _paths(value, (*path, key))


def _spoil(config, path, value):
    config = copy.deepcopy(config)
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return config


def _configurations(workshop):
    """A configuration with one value replaced, through everything that is built before data is read."""
    base = workshop.config()
    base["Global"]["output_dir"] = str(workshop.folder / "fuzz")
    base["Global"]["checkpoints"] = None
    base["Arch"] = {"name": "Tiny", "class_num": 10}
    paths = [p for p in _paths(base) if p]
    strategy = st.tuples(st.sampled_from(paths), VALUES).map(lambda x: _spoil(base, *x))

    def network(config, mode):
        return paddle.nn.Sequential(paddle.nn.Flatten(), paddle.nn.Linear(3 * 32 * 32, 10))

    def build(config):
        for mode in ("infer", "predict", "export"):
            check_config(config, mode)
        Engine(copy.deepcopy(config), network, "train")

    return strategy, build


def _overrides(workshop):
    base = workshop.config()
    words = sorted({str(k) for path in _paths(base) for k in path} | {"0", "9", "", "x"})
    keys = st.lists(st.sampled_from(words), min_size=1, max_size=5).map(".".join)
    text = st.one_of(
        st.text(max_size=20), LEAVES.map(str), st.sampled_from(["[a", "{a: 1", "&a [*a]", "!!x y", "'"])
    )
    option = st.tuples(keys | st.text(max_size=10), st.sampled_from(["=", "=", "=", "", "=="]), text).map(
        "".join
    )
    return option, lambda text: apply_override(copy.deepcopy(base), text)


def _lists(workshop):
    path = workshop.folder / "fuzz_list.txt"
    line = st.one_of(
        st.tuples(st.text(max_size=10), st.sampled_from([" ", "\t", "", "  "]), LEAVES.map(str)).map("".join),
        st.sampled_from(
            [*workshop.list.read_text().splitlines()[:5], "\ufeff", "\0 1", "a b c", " 1", "x 1e3"]
        ),
    )
    content = st.lists(line, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))

    def read(data):
        path.write_bytes(data)
        dataset = ImageNetDataset(lambda image: image, str(workshop.digits), str(path))
        dataset.check_labels(10)

    return content, read


def _good_files(workshop):
    """Files of every format, small ones."""
    folder = workshop.folder / "good"
    folder.mkdir()
    layer = paddle.nn.Linear(3, 2)
    optimizer = paddle.optimizer.Adam(paddle.optimizer.lr.StepDecay(0.1, 2), parameters=layer.parameters())
    save_file(layer.state_dict(), str(folder / "a.pdparams"))
    save_file(optimizer.state_dict(), str(folder / "b.pdopt"))
    save_file({"metric": 0.5, "epoch": 3}, str(folder / "c.pdstates"))
    paddle.save(layer.state_dict(), str(folder / "d.pdparams"), protocol=2)
    state = {"w": paddle.ones([2, 3]), "half": paddle.ones([3]).astype("bfloat16"), "n": paddle.arange(2)}
    save_weights(state, str(folder / "a.safetensors"))
    (folder / "set.x.staged").write_bytes(b"x" * 2000)
    files.commit(str(folder / "set"), [".x"], {"epoch": 1, "step": 2})


def _images(workshop, times):
    pixels = np.random.RandomState(0).randint(0, 256, (24, 32, 3), dtype="uint8")
    good = []
    for kind in ("JPEG", "PNG", "BMP", "WEBP", "GIF"):
        path = workshop.folder / "good" / f"image.{kind.lower()}"
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        path.write_bytes(buffer.getvalue())
        good.append(path)
    transform = build_transforms([{"DecodeImage": None}], "fuzz")

    def decode(path):
        with open(path, "rb") as file:
            data = file.read()
        check_image(data, 10**6)
        transform(data)

    return _binary("images", good, decode, times, workshop.folder / "fuzz_image")


def _manifest(path):
    prefix = os.path.join(os.path.dirname(path), "fuzzed")
    os.replace(path, prefix + files.MANIFEST)
    files.verify(prefix)


def plans(workshop, times):
    """``(name, function for a child)`` of every format; ``times`` inputs in all."""
    folder = workshop.folder / "good"
    share = times // 20
    good = sorted(folder.glob("*.pd*"))
    yield _binary("pickles", good, load_paddle_file, 9 * share, workshop.folder / "fuzz.pdparams")
    yield _binary(
        "safetensors",
        [folder / "a.safetensors"],
        read_safetensors,
        4 * share,
        workshop.folder / "fuzz.safetensors",
    )
    yield _binary(
        "manifests", [folder / "set.manifest.json"], _manifest, share, workshop.folder / "fuzz.manifest"
    )
    yield _binary("YAML files", [folder / "run.yaml"], read_config, share // 2, workshop.folder / "fuzz.yaml")
    yield _images(workshop, 2 * share)
    yield _generated("lists", *_lists(workshop), share)
    yield _generated("-o", *_overrides(workshop), 2 * share)
    yield _generated("configurations", *_configurations(workshop), share // 4)


def all_fuzz(workshop, times):
    """A row for every format."""
    Child(_good_files, workshop, log=workshop.folder / "good.txt").wait()
    text = workshop.new_run().yaml.read_text()
    (workshop.folder / "good" / "run.yaml").write_text(text[:1500])
    for name, work in plans(workshop, times):
        yield _row(name, work, workshop.folder / f"fuzz_{name.replace(' ', '_')}.txt")


def _row(name, work, log):
    """Do the work in a child of limited memory."""

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        work()

    row, child = Row(f"fuzzed {name}"), Child(limited, log=log)
    status = child.wait(3600)
    output = child.output().splitlines()
    found = next((line.split()[1:] for line in output if line.startswith("OUTCOMES ")), None)
    if status or found is None:
        row.count(f"status {status}: {child.output()[-400:]}")
        return row
    taken, refused, failed = map(int, found)
    row.tried, row.survived = taken + refused + failed, taken + refused
    row.lost = f"nothing ({refused} refused)"
    row.failures = [line.removeprefix("FAILED ") for line in output if line.startswith("FAILED ")]
    return row
