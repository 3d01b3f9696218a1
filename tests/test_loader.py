"""Batches: the same for any number of processes and from any place on; failures end, nothing leaks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from paddle_attention.config import ConfigError, DataError
from paddle_attention.engine.batches import BatchReader
from paddle_attention.engine.data import build_loader

ROOT = Path(__file__).parent.parent
CROP = [
    {"DecodeImage": None},
    {"RandCropImage": {"size": 8}},
    {"RandFlipImage": None},
    {"ColorJitter": {"brightness": 0.4, "hue": 0.1}},
    {"RandomErasing": {"EPSILON": 0.7, "mode": "pixel"}},
    {"NormalizeImage": {"order": ""}},
]
MIX = [{"OpSampler": {"MixupOperator": {"alpha": 0.5, "prob": 0.5}, "CutmixOperator": {"prob": 0.5}}}]


@pytest.fixture
def images(tmp_path):
    """24 images of 16 x 12 pixels in three classes, and a section of a YAML that reads them."""
    random = np.random.RandomState(0)
    for i in range(24):
        Image.fromarray(random.randint(0, 256, (12, 16, 3), dtype="uint8")).save(tmp_path / f"{i}.jpg")
    (tmp_path / "list.txt").write_text("".join(f"{i}.jpg {i % 3}\n" for i in range(24)))

    def section(workers=0, transforms=CROP, mixing=None, **settings):
        part = {
            "dataset": {
                "name": "ImageNetDataset",
                "image_root": str(tmp_path),
                "cls_label_path": str(tmp_path / "list.txt"),
                "transform_ops": transforms,
                "batch_transform_ops": mixing,
            },
            "sampler": {"name": "DistributedBatchSampler", "batch_size": 6, "shuffle": True},
            "loader": {"num_workers": workers},
        }
        return {"Global": settings, "DataLoader": {"Train": part, "Eval": part}}

    return section


# In a process of its own: forking is safe from a fresh one, not from one full of other tests' threads.
SCRIPT = """
import glob, json, os, sys
import numpy as np
from paddle_attention.engine.data import build_loader

config, epochs, first, path = json.loads(sys.argv[1])
loader = build_loader(config, "Train", 3)
loader.seed, loader.epoch, loader.first = (7,), 1, first
pid = os.getpid()

def usage():
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

marks, result = [], []
for epoch in range(epochs):
    batches = [[x.numpy() for x in batch] for batch in loader]
    if epoch < 3:
        result += batches
    if epoch == 3:  # left early
        for batch in loader:
            break
    marks.append(usage())
loader.close()
np.savez(path, marks=marks, **{f"{i}_{j}": x for i, batch in enumerate(result) for j, x in enumerate(batch)})
left = [f for f in glob.glob(f"/dev/shm/paddle_attention_{os.getpid()}_*")]
print(json.dumps({"left": len(left)}))
"""


def read(config, tmp_path, epochs=3, first=0):
    path = str(tmp_path / "batches.npz")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([config, epochs, first, path])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(path)), json.loads(done.stdout.splitlines()[-1])


def same(one, other):
    keys = sorted(k for k in one if k != "marks")
    return keys == sorted(k for k in other if k != "marks") and all(
        np.array_equal(one[k], other[k]) for k in keys
    )


@pytest.mark.parametrize("mixing", [None, MIX], ids=["plain", "mixed"])
def test_workers_change_nothing(images, tmp_path, mixing):
    plain, _ = read(images(0, mixing=mixing), tmp_path)
    assert len(plain) == 1 + 3 * 4 * 2
    pipes = images(2, mixing=mixing)
    pipes["DataLoader"]["Train"]["loader"]["use_shared_memory"] = False
    for config in (images(1, mixing=mixing), images(3, mixing=mixing), pipes):
        ahead, _ = read(config, tmp_path)
        assert same(plain, ahead)
    assert not np.array_equal(plain["0_0"], plain["4_0"])  # another epoch


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_begins_at_any_batch(images, tmp_path, workers):
    whole, _ = read(images(workers, mixing=MIX), tmp_path, epochs=2)
    part, _ = read(images(workers, mixing=MIX), tmp_path, epochs=2, first=3)
    assert np.array_equal(part["0_0"], whole["3_0"])
    assert np.array_equal(part["0_1"], whole["3_1"])
    assert np.array_equal(part["1_0"], whole["4_0"])  # the next epoch is whole


def test_nothing_leaks_in_200_epochs(images, tmp_path):
    """Descriptors and threads are flat, shared memory is given back, also of an epoch left early."""
    found, output = read(images(2), tmp_path, epochs=200)
    marks = found["marks"]
    assert (marks[5:].max(0) - marks[5:].min(0) <= 1).all()
    assert output["left"] == 0


FAILURES = [
    (
        {"transforms": [{"DecodeImage": None}]},
        lambda folder: Image.new("RGB", (20, 12)).save(folder / "5.jpg"),
        r"images of a batch must have one size: .*jpg is (16x12|20x12), .*jpg is (16x12|20x12); add ResizeImage",
    ),
    (
        {},
        lambda folder: (folder / "5.jpg").write_bytes((folder / "5.jpg").read_bytes()[:-30]),
        r"image .*/5\.jpg: not a whole JPEG: its end is missing",
    ),
    (
        {},
        lambda folder: (folder / "5.jpg").write_bytes(b""),
        r"image .*/5\.jpg: not an image: the file is empty",
    ),
    ({}, lambda folder: (folder / "5.jpg").unlink(), r"image .*/5\.jpg: .*No such file"),
    (
        {"transforms": [{"DecodeImage": None}, {"CropImage": {"size": 99}}]},
        lambda folder: None,
        r"image .*\.jpg: cannot crop 99x99 from a 16x12 image",
    ),
    (
        {"max_image_pixels": 100},
        lambda folder: None,
        r"image .*\.jpg: has 16x12 pixels, more than 100; .*Global\.max_image_pixels",
    ),
]


@pytest.mark.parametrize(("part", "workers"), [("Train", 0), ("Train", 2), ("Eval", 0)])
@pytest.mark.parametrize(("options", "spoil", "message"), FAILURES, ids=[m[:40] for _, _, m in FAILURES])
def test_a_failure_ends_the_epoch(images, tmp_path, workers, options, spoil, message, part):
    loader = build_loader(images(workers, **options), part, 3)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        for _ in loader:
            pass
    loader.close()


def test_a_failing_sampler_ends_the_epoch(images):
    loader = build_loader(images(), "Train", 3)
    loader.epoch = -5
    with pytest.raises(ValueError, match="expected non-negative"):
        next(iter(loader))


DIES = """
import json, os, signal, sys
from paddle_attention.config import DataError
from paddle_attention.engine.data import build_loader

loader = build_loader(json.loads(sys.argv[1]), "Train", 3)
try:
    for number, batch in enumerate(loader):
        pids = list(loader._pool._processes)
        if number == 0:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
except DataError as error:
    print(error)
"""


def test_a_dead_worker_is_said(images):
    config = images(2)
    config["DataLoader"]["Train"]["sampler"]["batch_size"] = 1
    done = subprocess.run(
        [sys.executable, "-c", DIES, json.dumps(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "a process that reads images has died" in done.stdout


ORPHANS = """
import json, os, sys, time
from paddle_attention.engine.data import build_loader
loader = build_loader(json.loads(sys.argv[1]), "Train", 3)
next(iter(loader))
print(*loader._pool._processes, flush=True)
time.sleep(60)
"""


def test_workers_do_not_outlive_a_killed_run(images):
    run = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, json.dumps(images(2))], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) == 2
    run.kill()
    run.wait()
    deadline = 50
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and deadline:
        subprocess.run(["sleep", "0.2"], check=True)
        deadline -= 1
    assert deadline, "workers are still there after 10 s"


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_may_be_left_out(images, tmp_path, workers):
    (tmp_path / "5.jpg").write_bytes(b"broken")
    config = images(workers, on_bad_image="skip", mixing=MIX)
    config["DataLoader"]["Train"]["sampler"]["shuffle"] = False
    loader = build_loader(config, "Train", 3)
    assert [batch[0].shape[0] for batch in loader] == [5, 6, 6, 6]
    list(loader)
    loader.close()
    assert loader.skipped == {f"image {tmp_path}/5.jpg: not an image of a known format": 2}
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(b"broken")
    loader = build_loader(config, "Train", 3)  # which takes another image for its first batch
    assert [batch[0].shape[0] for batch in loader] == [1, 6, 6, 6]
    loader.close()


LISTS = [
    (b"0.jpg 0\n1.jpg 3\n", r"list\.txt:2: label 3 of .*/1\.jpg is outside 0 to 2.*Arch\.class_num: 3"),
    (b"0.jpg 0\n\n1.jpg -1\n", r"list\.txt:3: label -1 of"),
    (b"0.jpg 1.0\n", r"list\.txt:1: expected 'path label', but got '0\.jpg 1\.0'"),
    (b"0.jpg " + "²".encode() + b"\n", r"list\.txt:1: expected"),
    (b"0.jpg " + b"9" * 5000 + b"\n", r"list\.txt:1: expected"),
    (b"0.jpg\n", r"list\.txt:1: expected"),
    (b"0.jpg 0\n\xff.jpg 0\n", r"list\.txt:2: not UTF-8 text"),
    (b"0.jpg 0\nnone.jpg 0\n", r"list\.txt:2: there is no image '.*none\.jpg'"),
    (b"\xef\xbb\xbf", "names no image"),
    (b"a\0b.jpg 0\n", r"list\.txt:1: there is no image"),
]


@pytest.mark.parametrize(("content", "message"), LISTS, ids=[m[:40] for _, m in LISTS])
def test_bad_lists(images, tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises((ConfigError, DataError), match=message):
        build_loader(images(), "Train", 3)


def test_byte_order_mark(images, tmp_path):
    text = (tmp_path / "list.txt").read_bytes()
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + text)
    loader = build_loader(images(), "Train", 3)
    assert loader.dataset.paths[0] == str(tmp_path / "0.jpg")
    assert len(list(loader)) == 4


def test_jpegs_that_are_whole(tmp_path):
    """Thumbnails, progressive scans and bytes behind the end are no reason to refuse one; a missing end is."""
    from paddle_attention.preprocess import check_image

    pixels = np.random.RandomState(0).randint(0, 256, (64, 80, 3), dtype="uint8")
    _, plain = cv2.imencode(".jpg", pixels)
    plain = plain.tobytes()
    _, progressive = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    thumbnail = b"\xff\xe1" + (len(plain) + 2).to_bytes(2, "big") + plain  # an APP1 that holds a whole JPEG
    for data in (plain, progressive.tobytes(), plain + b"\0" * 100, plain[:2] + thumbnail + plain[2:]):
        check_image(data, 10**6)
        for length in (len(plain) // 2, 30):
            cut = data[: len(data) - length]
            if b"\0" * 100 not in data:
                with pytest.raises(ValueError, match=r"not a whole|not an image"):
                    check_image(cut, 10**6)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".webp"])
def test_other_formats_cut_off(tmp_path, ending):
    from paddle_attention.preprocess import check_image

    path = tmp_path / f"a{ending}"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 80, 3), dtype="uint8")).save(path)
    data = path.read_bytes()
    check_image(data, 10**6)
    for length in (1, 20, len(data) // 2):
        if not (ending == ".png" and length == 1):  # the last byte of a checksum of nothing
            with pytest.raises(ValueError, match=r"not a whole|not an image"):
                check_image(data[:-length], 10**6)


def test_a_bomb_is_refused_before_it_is_decoded(images, tmp_path):
    """A picture of 20000 x 20000 in some kilobytes takes 1.2 GB to decode."""
    Image.new("1", (20000, 20000)).save(tmp_path / "5.jpg", "PNG")
    assert os.path.getsize(tmp_path / "5.jpg") < 100_000
    with pytest.raises(DataError, match=r"5\.jpg: .*(20000x20000|400000000) pixels"):
        build_loader(images(), "Train", 3).dataset[5]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [1, 6])
def test_a_batch_of_nothing_but_bad_images(images, tmp_path, workers, size):
    """In training it takes the next image that can be read; an evaluation leaves it out."""
    for i in range(6, 12):
        (tmp_path / f"{i}.jpg").write_bytes(b"no image")
    config = images(workers, [{"DecodeImage": None}, {"ToCHWImage": None}], on_bad_image="skip")
    for part in config["DataLoader"].values():
        part["sampler"].update(shuffle=False, batch_size=size)
    expected = {"Train": 24 if size == 1 else 19, "Eval": 18}
    for part, number in expected.items():
        loader = build_loader(config, part)
        batches = list(loader)
        loader.close()
        assert sum(len(labels) for _, labels in batches) == number
        assert len(batches) == (24 // size if part == "Train" else 18 // size)
        assert len(loader.skipped) == sum(loader.skipped.values()) == 6


def test_nothing_at_all_can_be_read(images, tmp_path):
    for path in tmp_path.glob("*.jpg"):
        path.write_bytes(b"no image")
    loader = build_loader(images(0, on_bad_image="skip"), "Train")
    with pytest.raises(DataError, match=r"none of 24 images can be read, such as image .*\.jpg"):
        list(loader)
    loader.close()


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no shared memory here")
def test_shared_memory_of_killed_workers_is_freed(images, tmp_path):
    """Killed between making a block and telling anybody, also in a process that is dead now."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    blocks = [Path(f"/dev/shm/paddle_attention_{number}_1_0") for number in (os.getpid(), dead.pid)]
    other = Path(f"/dev/shm/paddle_attention_{os.getppid()}_1_0")
    try:
        for block in (*blocks, other):
            block.write_bytes(b"x")
        loader = build_loader(images(2), "Train")
        list(loader)
        assert not any(block.exists() for block in blocks)
        blocks[0].write_bytes(b"x")
        loader.close()
        assert not blocks[0].exists()
        assert other.exists()
    finally:
        other.unlink()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no worker processes here")
def test_a_dead_worker_is_the_last_that_is_said(images, tmp_path):
    """Neither the resource tracker nor a callback complains about what closing has freed."""
    script = """
import json, os, sys, time
from multiprocessing.shared_memory import SharedMemory
from paddle_attention.engine.data import build_loader

loader = build_loader(json.loads(sys.argv[1]), "Train")
# A worker that was killed had told the resource tracker of a batch, and nobody else.
left = SharedMemory(f"paddle_attention_{os.getpid()}_1_0", create=True, size=10)
left.close()
try:
    for _ in range(3):
        for _ in loader:
            time.sleep(0.5)  # what is read ahead waits in shared memory
            for process in list(loader._pool._processes.values()):
                process.kill()
except ValueError as error:
    print(error, file=sys.stderr)
"""
    config = json.dumps(images(2))
    done = subprocess.run(
        [sys.executable, "-c", script, config], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert "a process that reads images has died" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("first", [0, 18])
def test_no_image_is_tried_twice(first):
    """Whatever the order: those of the batch, then one of the others after the other."""

    class Unreadable:
        def __init__(self):
            self.read_so_far = []

        def __len__(self):
            return 24

        def read(self, index):
            self.read_so_far.append(index)
            raise DataError(f"image {index}")

    data, batch = Unreadable(), [first + i for i in (3, 0, 5, 1)]
    with pytest.raises(DataError, match="none of 24 images can be read, such as image"):
        BatchReader(data, skip=True, substitute=True)((0,), 1, 0, batch)
    assert sorted(data.read_so_far) == list(range(24))
