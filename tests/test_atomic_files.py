"""A file is the old one or the new one, whatever fails in between."""

import errno
import os
import subprocess
import sys
import time

import pytest

from ssfnas import atomic_files
from ssfnas.atomic_files import write_atomically
from ssfnas.errors import RequestError

STEPS = ("write", "fsync", "replace")


def failing(code: int):
    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return fail


def _open_full(*arguments):
    return _FullFile(open(*arguments))


class _FullFile:
    """A file that takes half of what is written, as on a disk that fills up."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, code):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    if step == "write":
        monkeypatch.setattr(atomic_files, "open", _open_full, raising=False)
    else:
        monkeypatch.setattr(os, step, failing(code))
    with pytest.raises(RequestError) as caught:
        write_atomically(path, b"new contents")
    monkeypatch.undo()
    expected = errno.ENOSPC if step == "write" else code
    assert str(path) in str(caught.value)
    assert os.strerror(expected) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_contents_and_folder_are_synced_around_the_rename(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        events.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def note_replace(source, target):
        events.append(("replace", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(tmp_path / "file", b"x")
    kinds = [kind for kind, _ in events]
    assert kinds == ["fsync", "replace", "fsync"]
    assert events[0][1].endswith(".partial")
    assert events[2][1] == str(tmp_path)


def test_interrupts_clean_up_and_go_on(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"x")
    assert os.listdir(tmp_path) == []


def test_missing_folder_and_folder_in_place_of_the_file(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="folder is gone"):
        write_atomically(tmp_path / "none" / "file", b"x")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(RequestError, match="a folder has that name"):
        write_atomically(tmp_path / "folder", b"x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"cannot write \.: .*: a folder has that name"):
        write_atomically("", b"x")
    assert os.listdir(tmp_path) == ["folder"]


def test_killed_while_writing_the_file_is_whole(tmp_path):
    program = (
        "import sys\n"
        "from ssfnas.atomic_files import write_atomically\n"
        "number = 0\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    number = (number + 1) % 250\n"
        "    write_atomically(sys.argv[1], bytes([number]) * 3_000_000)\n"
    )
    path = tmp_path / "file"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for pause in (0.05, 0.11, 0.17, 0.23):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout.readline() == b"ready\n"
        while not path.exists():
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        process.wait()
        process.stdout.close()
        data = path.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1
