"""A machine that does not play along: full disks, closed folders, data that goes away, files of enemies."""

import io
import os
import pickle
import random
import re
import resource
import signal
import tarfile

from PIL import Image

from paddle_attention import files

from .runs import Row, assert_equal


def _no_larger_than(size):
    """For a child: no file beyond ``size`` bytes, which writes find out as on a full disk."""

    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return prepare


def full_disk(workshop, times, chance):
    """The disk fills up at some moment of a run: it ends with one line, and the last checkpoint is whole."""
    row = Row("the disk is full", "steps since the last checkpoint, done again")
    reference = workshop.new_run().finish()
    for _ in range(times):
        with row.attempt():
            run = workshop.new_run()
            child = run.start()
            child.wait_for(r"Epoch 2/3\]\[Iter: 3/")
            child.kill(signal.SIGKILL)
            child.wait()
            before = run.state()
            child = run.start(_no_larger_than(chance.randrange(10_000, 400_000)))
            status = child.wait()
            assert status == 2, f"status {status}: {child.output()[-300:]}"
            assert "while writing" in child.last_line(), child.last_line()
            assert "kept" in child.last_line(), child.last_line()
            assert_equal(before, run.state())
            assert_equal(reference, run.finish())
    return [row]


def closed_folder(workshop, times, chance):
    """The output folder may not be written, here because it would lie in a file system of the kernel's."""
    row = Row("the output folder cannot be written")
    folder = "/sys/paddle_attention"
    for tool, override in (("train", f"Global.output_dir={folder}"), ("eval", f"Global.output_dir={folder}")):
        with row.attempt():
            child = workshop.new_run().start(None, tool, override)
            status = child.wait()
            assert status == 2, f"status {status}: {child.output()[-300:]}"
            assert re.match(rf"error: .*{folder}", child.last_line()), child.last_line()
    return [row]


def vanished_data(workshop, times, chance):
    """Images are removed, cut off or replaced while a run reads them."""
    row = Row("images vanish or are damaged during a run", "steps since the last checkpoint, done again")
    for number in range(times):
        with row.attempt():
            run = workshop.new_run()
            images = run.folder / "images"
            images.mkdir()
            lines = []
            for i, line in enumerate(workshop.list.read_text().splitlines()):
                path, _, label = line.rpartition(" ")
                with Image.open(workshop.digits / path) as image:
                    image.resize((32, 32)).save(images / f"{i}.jpg")
                lines.append(f"{i}.jpg {label}\n")
            (run.folder / "list.txt").write_text("".join(lines))
            where = f"DataLoader.Train.dataset.image_root={images}"
            which = f"DataLoader.Train.dataset.cls_label_path={run.folder}/list.txt"
            child = run.start(None, "train", where, which)
            child.wait_for("Iter: 2/")
            damage = (
                lambda path: path.unlink(),
                lambda path: path.write_bytes(path.read_bytes()[:-40]),
                lambda path: path.write_bytes(b"\0" * 300),
            )[number % 3]
            for path in list(images.iterdir())[:60]:
                damage(path)
            status = child.wait()
            assert status == 2, f"status {status}: {child.output()[-300:]}"
            assert child.last_line().startswith(f"error: image {images}/"), child.last_line()
            assert files.verify(str(run.output / "latest")) is not None
    return [row]


class _Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def hostile_files(workshop, times, chance):
    """Pickles and strings that run code, by every way a file or a YAML can reach a tool."""
    run = workshop.new_run()
    run.finish()
    mark = str(run.folder / "evil")
    evil = run.folder / "evil.pdparams"
    evil.write_bytes(pickle.dumps({"fc.weight": _Evil(mark)}))
    code = f"__import__('os').mkdir({mark!r})"
    ways = [
        *((tool, f"Global.pretrained_model={evil}") for tool in ("train", "eval", "infer", "export_model")),
        ("train", f"Arch.pretrained={evil}"),
        ("train", f"Arch={{name: ResNet18, class_num: 10, pretrained: {evil}}}"),
        ("train", f"Arch={{name: RecModel, Backbone: {{name: ResNet18, pretrained: {evil}}}}}"),
        ("train", f"Arch={{name: DeiT_tiny_patch16_224, pretrained: {evil}}}"),
        ("train", f'Arch={{name: "{code}"}}'),
        ("train", f'Arch={{name: AttentionNet, backbone: "{code}", attention: SE}}'),
        ("train", f'Arch={{name: PPLCNet_x0_25, lr_mult_list: "{code}"}}'),
        ("train", f'Arch={{name: DeiT_tiny_patch16_224, norm_layer: "{code}"}}'),
        ("train", f'Arch={{name: RecModel, Backbone: {{name: "{code}"}}}}'),
        ("train", f'Arch={{name: SVTR_tiny, sub_norm: "{code}"}}'),
        ("train", f"Global.epochs={code}"),
        ("train", f'Loss.Train=[{{"{code}": {{weight: 1}}}}]'),
        ("train", f'Optimizer.name="{code}"'),
        ("train", f'DataLoader.Train.dataset.name="{code}"'),
        ("train", f'DataLoader.Train.dataset.transform_ops=[{{RandomErasing: {{EPSILON: "{code}"}}}}]'),
        ("train", f'DataLoader.Train.dataset.transform_ops=[{{NormalizeImage: {{scale: "{code}"}}}}]'),
        ("train", f'Metric.Eval=[{{"{code}": {{topk: 1}}}}]'),
        (
            "train",
            f"DataLoader.Train.dataset={{name: Cifar10, data_file: {_archive(run, mark)}, transform_ops: []}}",
        ),
        ("predict", f'Infer.PostProcess.name="{code}"'),
    ]
    for ending in (".pdparams", ".pdopt", ".pdstates"):
        prefix = run.folder / f"bad{ending[1:]}"
        for other in (".pdparams", ".pdopt", ".pdstates"):
            content = (run.output / f"latest{other}").read_bytes()
            (run.folder / f"{prefix.name}{other}").write_bytes(
                evil.read_bytes() if other == ending else content
            )
        ways.append(("train", f"Global.checkpoints={prefix}"))
    row = Row("files and YAMLs that want to run code, by every way")
    for tool, override in ways:
        with row.attempt():
            child = run.start(None, tool, override)
            status = child.wait()
            assert not os.path.exists(mark), f"{tool} -o {override}: code was run"
            assert status == 2, f"{tool} -o {override}: status {status}: {child.output()[-300:]}"
            assert child.last_line().startswith("error: "), child.last_line()
            assert "Traceback" not in child.output(), child.output()[-300:]
    return [row]


def _archive(run, mark):
    path = run.folder / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("data_batch_1", "test_batch"):
            data = pickle.dumps(_Evil(mark))
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def damaged_models(workshop, times, chance):
    """Bits that flip and bytes that are missing in an exported model."""
    row = Row("a bit flips or bytes are missing in an exported model")
    run = workshop.new_run()
    run.finish()
    run.tool("export_model", f"Global.pretrained_model={run.output}/latest")
    target = run.folder / "inference"
    paths = [p for p in target.iterdir() if p.suffix in (".json", ".pdmodel", ".pdiparams")]
    good = {p: p.read_bytes() for p in paths if "manifest" not in p.name}
    whole = run.tool("predict")
    for _ in range(times):
        path = chance.choice(sorted(good))
        data = bytearray(good[path])
        if chance.random() < 0.8:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            del data[-chance.randrange(1, 100) :]
        path.write_bytes(data)
        with row.attempt():
            child = run.start(None, "predict")
            status = child.wait()
            assert status == 2, f"status {status}: {child.output()[-300:]}"
            assert f"{path} is damaged" in child.last_line(), child.last_line()
        path.write_bytes(good[path])
    with row.attempt():
        assert [x for x in run.tool("predict").splitlines() if ".bmp" in x] == [
            x for x in whole.splitlines() if ".bmp" in x
        ]
    return [row]


def all_surroundings(workshop, scale):
    """All rows of this module; ``scale`` is 1 for the short check."""
    chance = random.Random(2)
    yield from full_disk(workshop, 2 * scale, chance)
    yield from closed_folder(workshop, 1, chance)
    yield from vanished_data(workshop, 3 * scale, chance)
    yield from hostile_files(workshop, 1, chance)
    yield from damaged_models(workshop, 6 * scale, chance)
