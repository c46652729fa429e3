"""Checkpoints survive what happens to disks and processes, and read nothing but plain state."""

import errno
import os
import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch

from ssfnas.errors import RequestError
from ssfnas.runs.checkpoints import CheckpointStore


def state(value: float) -> dict:
    return {
        "net": {"weight": torch.full((3, 2), value)},
        "step": 3,
        "flags": [True, None, (1, "a")],
    }


def damage(file, kind: str) -> None:
    data = bytearray(file.read_bytes())
    if kind == "truncated":
        data = data[: len(data) // 2]
    elif kind == "empty":
        data = bytearray()
    else:
        data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_what_is_saved_is_what_is_read(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.latest() is None
    generator = torch.Generator().manual_seed(3)
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "plain": [1, 2.5, True, None, "text", (1, (2, 3))],
    }
    path = store.save(490, saved)
    assert re.fullmatch(r"step-00000490-[0-9a-f]{16}\.pt", path.name)
    assert store.files() == [(490, path)]
    step, found = store.latest()
    assert step == 490
    assert found["plain"] == saved["plain"]
    assert torch.equal(found["generator"], saved["generator"])
    assert torch.equal(found["double"], saved["double"])
    for name, value in saved["net"].items():
        assert torch.equal(found["net"][name], value)
    fresh = torch.optim.Adam(net.parameters())
    fresh.load_state_dict(found["optimizer"])
    assert torch.equal(fresh.state[net.weight]["exp_avg"], optimizer.state[net.weight]["exp_avg"])


def test_the_last_two_are_kept(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 30, 4_000_000_000):
        store.save(step, state(step))
    assert [step for step, _ in store.files()] == [4_000_000_000, 30]
    assert len(os.listdir(tmp_path)) == 2


def test_a_run_that_went_back_leaves_no_later_checkpoints(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(10, state(1))
    store.save(20, state(2))
    store.save(15, state(3))
    assert [step for step, _ in store.files()] == [15, 10]
    store.save(15, state(4))
    assert [step for step, _ in store.files()] == [15, 10]
    assert store.latest()[1]["net"]["weight"][0, 0] == 4


@pytest.mark.parametrize("kind", ["truncated", "flipped", "empty"])
def test_a_damaged_last_one_is_reported_and_the_one_before_used(tmp_path, kind):
    store = CheckpointStore(tmp_path)
    store.save(10, state(1))
    last = store.save(20, state(2))
    damage(last, kind)
    with pytest.warns(UserWarning, match=f"{last.name} is damaged.*the one of step 10 is used"):
        step, found = store.latest()
    assert step == 10
    assert torch.equal(found["net"]["weight"], torch.ones(3, 2))
    # Going on from there must not push the good one out in favor of the damaged one.
    store.save(15, state(3))
    assert [step for step, _ in store.files()] == [15, 10]


def test_every_flipped_bit_is_found(tmp_path):
    store = CheckpointStore(tmp_path)
    file = store.save(10, {"a": 1})
    data = file.read_bytes()
    for place in range(0, len(data), 7):
        file.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with pytest.raises(RequestError, match="damaged"):
            store.read(file)


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in (10, 20):
        damage(store.save(step, state(step)), "truncated")
    with (
        pytest.warns(UserWarning, match="damaged") as warned,
        pytest.raises(RequestError, match=r"no checkpoint .* is intact"),
    ):
        store.latest()
    assert len(warned) == 2
    assert not any("is used" in str(one.message) for one in warned)  # none is


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path, monkeypatch, function):
    store = CheckpointStore(tmp_path)
    store.save(10, state(1))
    store.save(20, state(2))
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(RequestError, match=r"No space left on device.*make room"):
        store.save(30, state(3))
    monkeypatch.undo()
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
    assert store.latest()[0] == 20


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, ("bomb",))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import hashlib

    for name, data in (
        ("pickled", pickle.dumps(_Bomb())),
        ("saved", _torch_bytes({"a": _Bomb()})),
    ):
        digest = hashlib.sha256(data).hexdigest()[:16]
        file = tmp_path / f"step-00000001-{digest}.pt"
        file.write_bytes(data)
        with pytest.raises(RequestError, match="refused"):
            CheckpointStore.read(file)
        assert not (tmp_path / "bomb").exists(), name


def _torch_bytes(value) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "value", [np.float64(1), np.zeros(2), {1, 2}, object(), b"x", {(1, 2): 3}, torch.float32]
)
def test_what_could_not_be_read_back_is_refused_when_saving(tmp_path, value):
    store = CheckpointStore(tmp_path)
    with pytest.raises(TypeError, match=r"state\['a'\]\[0\]"):
        store.save(1, {"a": [value]})
    assert store.files() == []


def test_views_are_saved_without_the_rest_of_their_storage(tmp_path):
    store = CheckpointStore(tmp_path)
    large = torch.arange(1_000_000.0)
    file = store.save(1, {"a": large[5:7], "b": OrderedDict(c=large[::500_000])})
    assert file.stat().st_size < 10_000
    found = store.latest()[1]
    assert found["a"].tolist() == [5, 6]
    assert found["b"]["c"].tolist() == [0, 500_000]


def test_leftovers_of_a_killed_process_are_ignored_and_removed(tmp_path):
    store = CheckpointStore(tmp_path)
    (tmp_path / ".step-00000005-0123456789abcdef.pt.77.partial").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert store.latest() is None
    kept = store.save(1, state(1))
    assert sorted(os.listdir(tmp_path)) == sorted([kept.name, "notes.txt"])


def test_keep_has_to_be_positive(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        CheckpointStore(tmp_path, keep=0)
