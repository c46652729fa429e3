"""Two processes agree: means of gradients, flags, messages."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from ssfnas.errors import RequestError
from ssfnas.runtime import distributed
from ssfnas.runtime.distributed import World, average_gradients, start_world

PROGRAM = """
import json, os, sys, torch
import torch.distributed as dist
from torch import nn
from ssfnas.runtime.distributed import average_gradients, start_world

world = start_world("cpu")
rank = world.rank
result = {"size": world.size, "main": world.is_main, "device": str(world.device)}

calls = []
all_reduce = dist.all_reduce
def counted(*args, **options):
    calls.append(1)
    return all_reduce(*args, **options)
dist.all_reduce = counted

# A network on half a batch each; what a mean loss on the whole batch gives is the truth.
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
net = net.to(memory_format=torch.channels_last)
net.group, net.itself = world.group, [net]  # as synchronized layers do, in a cycle at worst
x, y = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.randint(5, (6,))
nn.functional.cross_entropy(net(x), y).backward()
truth = [p.grad.clone() for p in net.parameters()]
net.zero_grad()
half = slice(3 * rank, 3 * rank + 3)
nn.functional.cross_entropy(net(x[half]), y[half]).backward()
calls.clear()
average_gradients([None, *(p.grad for p in net.parameters())], world)
result["error"] = max((p.grad - t).abs().max().item() for p, t in zip(net.parameters(), truth))
result["calls"] = len(calls)

# Two dtypes at once.
mixed = [torch.full((1,), 2.0 * rank), torch.full((2,), 1.0 / 3 * rank, dtype=torch.float64)]
average_gradients(mixed, world)
result["mixed"] = [m.tolist() for m in mixed]

result["largest"] = world.largest(rank == 1, 0, 7 - rank)
result["mean"] = world.mean(torch.tensor(float(rank), dtype=torch.float64)).item()
messages = ["", "text é \\n", {"a": [1, None]}, None]
result["broadcast"] = [world.broadcast(m if world.is_main else "other") for m in messages]
world.barrier()
world.close()
result["closed"] = not dist.is_initialized()
with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
    json.dump(result, file)
del net
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


# Two processes compute for all tests, once.
pytestmark = pytest.mark.xdist_group("distributed")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("distributed")
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
            },
        )
        for rank in range(2)
    ]
    for process in processes:
        assert process.wait(timeout=120) == 0
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_processes_know_who_they_are(results):
    assert [r["main"] for r in results] == [True, False]
    assert all((r["size"], r["device"], r["closed"]) == (2, "cpu", True) for r in results)


def test_mean_gradients_are_those_of_the_whole_batch_in_one_all_reduce(results):
    for result in results:
        assert result["error"] < 1e-14
        assert result["calls"] == 1


def test_dtypes_are_kept_apart(results):
    for result in results:
        assert result["mixed"] == [[1.0], [1 / 6, 1 / 6]]


def test_numbers_means_and_messages(results):
    for result in results:
        assert result["largest"] == [1, 0, 7]
        assert result["mean"] == 0.5
        assert result["broadcast"] == ["", "text é \n", {"a": [1, None]}, None]


def test_alone_nothing_is_communicated():
    world = start_world("cpu")
    assert world == World(0, 1, torch.device("cpu"), None)
    gradient = torch.ones(2)
    average_gradients([gradient, None], world)
    assert gradient.tolist() == [1, 1]
    assert world.largest(3, 0) == [3, 0]
    assert world.broadcast({"a": 1}) == {"a": 1}
    value = torch.ones((), requires_grad=True)
    assert not world.mean(value).requires_grad
    world.barrier()
    world.close()


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert start_world("auto").device == torch.device("cpu")
    with pytest.raises(RequestError, match="--device cuda: torch finds no GPU here"):
        start_world("cuda")


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match="2 GPUs for more processes"):
        start_world("auto")


def test_a_broken_environment(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(RequestError, match="WORLD_SIZE is 'two'"):
        start_world("cpu")


def test_no_meeting_point(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RequestError, match=r"cannot meet the others.*torchrun"):
        start_world("cpu")
    assert not distributed.dist.is_initialized()
