"""How much memory a process may use, read from made-up systems."""

from __future__ import annotations

import math

import pytest
import torch

from ssfnas.runtime.memory_limits import memory_limits

CPU = torch.device("cpu")
MACHINE = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 600 kB\nSwapTotal: 50 kB\n"
KB = 1024


def system(root, **files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v1(folder, limit, used, cached):
    return {
        f"sys/fs/cgroup/memory{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"sys/fs/cgroup/memory{folder}/memory.usage_in_bytes": f"{used}\n",
        f"sys/fs/cgroup/memory{folder}/memory.stat": f"rss 5\ntotal_inactive_file {cached}\n",
    }


def v2(folder, limit, used, cached):
    return {
        f"sys/fs/cgroup{folder}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup{folder}/memory.current": f"{used}\n",
        f"sys/fs/cgroup{folder}/memory.stat": f"anon 7\ninactive_file {cached}\n",
    }


@pytest.mark.parametrize(
    ("groups", "free", "total", "owner"),
    [
        ({}, 600 * KB, 1050 * KB, "this machine"),
        (
            {"proc/self/cgroup": "0::/a/b\n", **v2("/a", 300 * KB, 120 * KB, 20 * KB)},
            200 * KB,
            350 * KB,
            "the container",
        ),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                **v2("/a", 800 * KB, 100 * KB, 0),
                **v2("", "max", 900 * KB, 0),
            },
            600 * KB,
            850 * KB,
            "the container",
        ),
        (
            {"proc/self/cgroup": "4:memory:/x\n", **v1("/x", 500 * KB, 450 * KB, 50 * KB)},
            100 * KB,
            550 * KB,
            "the container",
        ),
        (
            {"proc/self/cgroup": "4:memory:/\n", **v1("", 2**63 - 4096, 10, 0)},
            600 * KB,
            1050 * KB,
            "this machine",
        ),
    ],
    ids=["no groups", "v2, the group above", "v2, more than is free", "v1", "v1, no limit"],
)
def test_the_smallest_of_machine_and_groups(tmp_path, groups, free, total, owner):
    found = memory_limits(CPU, system(tmp_path, **{"proc/meminfo": MACHINE, **groups}))
    assert (found.free, found.total, found.owner) == (free, total, owner)


def test_nothing_is_known_of_another_system(tmp_path):
    found = memory_limits(CPU, tmp_path)
    assert found.free == found.total == math.inf


def test_this_machine():
    found = memory_limits(CPU)
    assert 0 < found.free <= found.total
