"""Sets of files are whole whatever moment a process dies at; damage, locks, full disks."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_attention import files
from paddle_attention.files import DamagedFileError, FolderInUseError, FolderLock

ROOT = Path(__file__).parent.parent
ENDINGS = (".pdparams", ".pdopt", ".pdstates")


def stage(prefix, text, endings=ENDINGS):
    for ending in endings:
        Path(prefix + ending + files.STAGED).write_text(
            f"{text}{ending}" * (200 if ending != ".pdstates" else 1)
        )


def write(prefix, text, endings=ENDINGS):
    stage(prefix, text, endings)
    files.commit(prefix, endings, {"epoch": text})


def content(prefix, endings=ENDINGS):
    """The one text that all files of a whole set begin with."""
    manifest = files.verify(prefix)
    texts = {Path(prefix + ending).read_text().split(".")[0] for ending in endings}
    assert texts == {manifest["epoch"]}
    return texts.pop()


class Killed(BaseException):
    """Ends a process at one of its calls of the file system, as SIGKILL would: nothing is cleaned up."""


def die_after(calls, monkeypatch):
    """Let the process live for so many calls; a dead one does nothing more, cleaning up included."""
    left = [calls]

    def replace(name):
        original = getattr(os, name)

        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("replace", "unlink", "fsync"):
        replace(name)


@pytest.mark.parametrize("first", [True, False])
def test_killed_at_every_call(tmp_path, monkeypatch, first):
    """Before the commit point the old set is there, after it the new one; never anything else."""
    outcomes = []
    for survivors in range(100):
        folder = tmp_path / str(survivors)
        folder.mkdir()
        prefix = str(folder / "latest")
        if not first:
            write(prefix, "old")
        stage(prefix, "new")
        with monkeypatch.context() as patch:
            die_after(survivors, patch)
            try:
                files.commit(prefix, ENDINGS, {"epoch": "new"})
                done = True
            except Killed:
                done = False
        files.recover(prefix, owner=True)
        outcomes.append(content(prefix) if files.read_manifest(prefix) else None)
        assert sorted(p.name for p in folder.iterdir()) == (
            sorted(["latest.manifest.json", *(f"latest{e}" for e in ENDINGS)]) if outcomes[-1] else []
        )
        write(prefix, "next")
        assert content(prefix) == "next"
        if done:
            break
    else:
        pytest.fail("never done")
    before = None if first else "old"
    at = outcomes.index("new")
    assert outcomes == [before] * at + ["new"] * (len(outcomes) - at)
    assert at > 3
    assert len(outcomes) - at > 5  # kills after the commit point, which recover() finishes


@pytest.mark.parametrize("after", [False, True])
def test_interrupted_at_every_call(tmp_path, monkeypatch, after):
    """An exception, such as of Ctrl-C, cleans up what is not yet the set, and nothing that is."""
    outcomes = []
    for survivors in range(100):
        prefix = str(tmp_path / str(survivors) / "latest")
        os.makedirs(os.path.dirname(prefix))
        write(prefix, "old")
        stage(prefix, "new")
        left = [survivors]

        def once(name, original, left=left):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] == -1:
                    if after:
                        original(*arguments, **options)
                    raise KeyboardInterrupt
                return original(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("replace", "unlink", "fsync"):
                patch.setattr(os, name, once(name, getattr(os, name)))
            try:
                files.commit(prefix, ENDINGS, {"epoch": "new"})
                done = True
            except KeyboardInterrupt:
                done = False
        outcomes.append(content(prefix))
        if done:
            break
    assert outcomes == sorted(outcomes, reverse=True)
    assert {"old", "new"} == set(outcomes)


def test_the_last_file_is_never_of_another_set(tmp_path, monkeypatch):
    """For programs that know no manifests: .pdstates is there only with the files of its set."""
    prefix = str(tmp_path / "latest")
    write(prefix, "old")
    stage(prefix, "new")
    replace = os.replace

    def look(source, target):
        replace(source, target)
        if os.path.exists(prefix + ".pdstates"):
            texts = {Path(prefix + e).read_text().split(".")[0] for e in ENDINGS}
            assert len(texts) == 1

    monkeypatch.setattr(os, "replace", look)
    files.commit(prefix, ENDINGS, {"epoch": "new"})


def test_a_reader_may_recover_while_the_writer_goes_on(tmp_path, monkeypatch):
    prefix = str(tmp_path / "latest")
    write(prefix, "old")
    for moment in range(4):
        stage(prefix, f"new{moment}")
        replace, calls = os.replace, [0]

        def interleave(source, target, replace=replace, calls=calls, moment=moment):
            replace(source, target)
            calls[0] += 1
            if calls[0] == moment + 1:
                monkeypatch.setattr(os, "replace", replace)
                files.recover(prefix)
                monkeypatch.setattr(os, "replace", interleave)

        monkeypatch.setattr(os, "replace", interleave)
        files.commit(prefix, ENDINGS, {"epoch": f"new{moment}"})
        monkeypatch.setattr(os, "replace", replace)
        assert content(prefix) == f"new{moment}"


def test_a_file_of_the_old_set_alone_goes(tmp_path):
    prefix = str(tmp_path / "latest")
    write(prefix, "old", (".pdema", *ENDINGS))
    write(prefix, "new")
    assert not os.path.exists(prefix + ".pdema")
    assert content(prefix) == "new"


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "latest.pdopt is damaged: its checksum is another"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "it has 1799 of 1800 bytes"),
        (lambda path: path.unlink(), "latest.pdopt is missing"),
    ],
)
def test_damage(tmp_path, damage, message):
    prefix = str(tmp_path / "latest")
    write(prefix, "old")
    damage(tmp_path / "latest.pdopt")
    with pytest.raises(DamagedFileError, match=message):
        files.verify(prefix)
    files.verify(prefix, [".pdparams"])


def test_a_set_written_by_another_program(tmp_path):
    """PaddleClas' own engine knows no manifests: all large files are then others."""
    prefix = str(tmp_path / "latest")
    write(prefix, "old")
    for ending in ENDINGS[:2]:
        Path(prefix + ending).write_text("other")
    with pytest.raises(DamagedFileError):  # two damaged files beside one that nobody has written since
        files.verify(prefix)
    (tmp_path / "latest.pdstates").touch()  # which happens to be the same
    assert files.verify(prefix) is None


@pytest.mark.parametrize("target", ["latest.manifest.json", "nowhere"])
def test_a_manifest_that_is_a_link_to_nowhere(tmp_path, target):
    prefix = str(tmp_path / "latest")
    write(prefix, "old")
    (tmp_path / "latest.manifest.json").unlink()
    (tmp_path / "latest.manifest.json").symlink_to(target)
    with pytest.raises(DamagedFileError, match="is a link to nowhere"):
        files.verify(prefix)


def test_a_set_that_only_this_library_writes(tmp_path):
    """Two damaged files are no set of another program, whatever their age."""
    prefix = str(tmp_path / "latest")
    write(prefix, "old")
    for ending in ENDINGS:
        Path(prefix + ending).write_text("other")
    assert files.verify(prefix) is None
    with pytest.raises(DamagedFileError, match="is damaged"):
        files.verify(prefix, strict=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_manifest_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.manifest.json")
    with pytest.raises(OSError, match="not a regular file"):
        files.verify(str(tmp_path / "a"))


def test_a_reader_does_not_take_what_is_being_written(tmp_path):
    """A staged file may be equal to the one it is to replace."""
    prefix = str(tmp_path / "latest")
    write(prefix, "old")
    stage(prefix, "new")
    Path(prefix + ".pdstates" + files.STAGED).write_bytes(Path(prefix + ".pdstates").read_bytes())
    files.recover(prefix)
    assert content(prefix) == "old"
    files.commit(prefix, ENDINGS, {"epoch": "new"})


def test_only_regular_files_are_read(tmp_path):
    """Reading a pipe would wait for somebody to write into it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        files.read_regular_file(str(tmp_path / "pipe"))
    with pytest.raises(FileNotFoundError):
        files.read_regular_file(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {".x": {"bytes": "1", "sha256": "a"}}}',
        '{"files": {"/../../x": {"bytes": 1, "sha256": "a"}}}',
        "[" * 100000,
    ],
)
def test_bad_manifests(tmp_path, text):
    prefix = str(tmp_path / "latest")
    write(prefix, "old")
    Path(prefix + files.MANIFEST).write_text(text)
    with pytest.raises(DamagedFileError, match=r"latest\.manifest\.json cannot be read"):
        files.verify(prefix)


def test_full_disk(tmp_path, monkeypatch):
    """The message names the file and what is kept, and nothing staged is left."""
    prefix = str(tmp_path / "latest")
    write(prefix, "old")
    stage(prefix, "new")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"while writing {prefix}.manifest.json; the old one is kept"):
        files.commit(prefix, ENDINGS, {}, "the old one is kept")
    with pytest.raises(OSError, match=rf"while writing {tmp_path}/x; what was there before is unchanged"):
        files.write_atomically(str(tmp_path / "x"), lambda file: file.write(b"x"))
    monkeypatch.undo()
    assert content(prefix) == "old"
    assert len(list(tmp_path.iterdir())) == 4


HOLD = """
import sys
from paddle_attention import files
lock = files.FolderLock(sys.argv[1], "training")
print("held", flush=True)
sys.stdin.read()
"""


def test_lock(tmp_path):
    """Held against other processes, gone with its owner however that ends, and free to be taken again."""
    folder = str(tmp_path / "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(
        FolderInUseError, match=rf"run is in use by training, process {holder.pid} on .*; wait"
    ):
        FolderLock(folder, "training")
    holder.kill()
    holder.wait()
    with FolderLock(folder, "training"), pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"):
        FolderLock(folder, "training")
    FolderLock(folder, "training").release()
    assert list(Path(folder).iterdir()) == []


def test_two_writers_of_one_file(tmp_path):
    path = str(tmp_path / "x")

    def write_inside(file):
        with pytest.raises(FolderInUseError, match=f"{path} is in use by another process"):
            files.write_atomically(path, lambda file: None)
        file.write(b"mine")

    files.write_atomically(path, write_inside)
    assert Path(path).read_bytes() == b"mine"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_remove(tmp_path):
    prefix = str(tmp_path / "epoch_1")
    write(prefix, "old")
    write(str(tmp_path / "epoch_10"), "old")
    files.remove(prefix)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["epoch_10.manifest.json", *(f"epoch_10{e}" for e in ENDINGS)]
    )
