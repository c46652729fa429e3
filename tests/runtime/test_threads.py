"""How many threads compute, from what the process may use; and that they wait without spinning."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import suppress

import pytest
import torch

from ssfnas.errors import RequestError
from ssfnas.runtime import threads
from ssfnas.runtime.threads import choice, choose_threads, computing_threads, cpu_quota
from ssfnas.runtime.waiting import SPINS


@pytest.fixture
def system(tmp_path):
    """Writes files of a made-up system; the path is its root."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def groups(lines, **quotas):
    """``proc/self/cgroup`` and files below ``sys/fs/cgroup``."""
    return {"proc/self/cgroup": lines} | {f"sys/fs/cgroup/{n}": q for n, q in quotas.items()}


def v1(folder, quota, period="100000"):
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": period}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        pytest.param({}, math.inf, id="another system"),
        pytest.param(groups("0::/\n"), math.inf, id="v2, no file"),
        pytest.param(groups("0::/\n", **{"cpu.max": "max 100000\n"}), math.inf, id="v2, no limit"),
        pytest.param(groups("0::/\n", **{"cpu.max": "150000 100000\n"}), 1.5, id="v2, container"),
        pytest.param(
            groups("0::/a/b\n", **{"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 10000\n"}),
            5.0,
            id="v2, the group above",
        ),
        pytest.param(
            groups("0::/a/b\n", **{"a/b/cpu.max": "300000 100000", "a/cpu.max": "400000 100000"}),
            3.0,
            id="v2, the smaller of two",
        ),
        pytest.param(
            groups("0::/a\n", **{"other/cpu.max": "100000 100000"}), math.inf, id="v2, of others"
        ),
        pytest.param(
            groups("0::/docker/1\n", **{"cpu.max": "200000 100000"}), 2.0, id="v2, path of the host"
        ),
        pytest.param(groups("0::/../1\n", **{"1/cpu.max": "200000 100000"}), 2.0, id="v2, outside"),
        pytest.param(
            groups("1:name=systemd:/\n0::/a\n", **{"unified/a/cpu.max": "100000 100000"}),
            1.0,
            id="v2 beside v1",
        ),
        pytest.param(groups("2:cpu:/\n", **v1("cpu", -1)), math.inf, id="v1, no limit"),
        pytest.param(groups("2:cpu:/x\n", **v1("cpu/x", 250000)), 2.5, id="v1"),
        pytest.param(
            groups("2:cpu,cpuacct:/x\n", **v1("cpu,cpuacct/x", -1), **v1("cpu,cpuacct", 50000)),
            0.5,
            id="v1, two controllers in a container",
        ),
        pytest.param(
            groups("2:cpuset:/x\n3:memory:/x\n", **v1("cpuset/x", 50000)), math.inf, id="v1, others"
        ),
        pytest.param(groups("0::/\n", **{"cpu.max": "nonsense"}), math.inf, id="damaged"),
        pytest.param(groups("2:cpu:/\n", **v1("cpu", 100000, "0")), math.inf, id="no period"),
    ],
)
def test_quota_of_control_groups(system, files, cpus):
    assert cpu_quota(system(**files)) == cpus


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, "8 (all 8 CPUs)"),
        ({"usual": 4}, "4 (torch's choice among 8 CPUs)"),
        ({"usual": 2, "usable": 2}, "2 (affinity: 2 of 8 CPUs)"),
        ({"usual": 8, "usable": 2}, "2 (affinity: 2 of 8 CPUs)"),
        ({"quota": "150000"}, "1 (quota of the container: 1.5 CPUs)"),
        ({"quota": "50000"}, "1 (quota of the container: 0.5 CPUs)"),
        ({"quota": "390000", "usable": 2}, "2 (affinity: 2 of 8 CPUs)"),
        ({"quota": "390000", "usable": 5}, "3 (quota of the container: 3.9 CPUs)"),
        ({"processes": 3}, "2 (all 8 CPUs, shared by 3 processes)"),
        ({"processes": 9}, "1 (all 8 CPUs, shared by 9 processes)"),
        (
            {"processes": 2, "quota": "500000"},
            "2 (quota of the container: 5 CPUs, shared by 2 processes)",
        ),
        ({"processes": 2, "variable": "OMP_NUM_THREADS"}, "8 (OMP_NUM_THREADS=8)"),
        ({"quota": "100000", "variable": "MKL_NUM_THREADS"}, "8 (MKL_NUM_THREADS=8)"),
    ],
)
def test_number_and_its_reason(system, given, chosen):
    quota, variable = given.pop("quota", "max"), given.pop("variable", None)
    root = system(**groups("0::/\n", **{"cpu.max": f"{quota} 100000\n"}))
    environ = {"OMP_NUM_THREADS": ""} | ({variable: "8"} if variable else {})
    given = {"usual": 8, "usable": 8, "there": 8} | given
    assert str(choose_threads(**given, environ=environ, root=root)) == chosen


def test_processes_of_a_machine_share(monkeypatch):
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert choice().number == 1
    assert choice().reason.endswith(", shared by 1000 processes")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    with pytest.raises(RequestError, match="LOCAL_WORLD_SIZE is 'many'"):
        choice()


def test_the_number_before_comes_back():
    before = torch.get_num_threads()
    with suppress(ZeroDivisionError), computing_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_the_choice_is_what_computes(monkeypatch):
    monkeypatch.setattr(threads, "choice", lambda: threads.Threads(3, "so"))
    with computing_threads(None):
        assert torch.get_num_threads() == 3


LOOK = "import os; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"


def python(code, **variables):
    """What a process prints that starts without the variables that say how to wait."""
    environment = {
        n: v for n, v in os.environ.items() if n not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), **variables}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_waiting_is_said_before_torch_is_imported():
    code = f"import ssfnas, sys; assert 'torch' not in sys.modules; {LOOK}; import torch"
    assert python(code) == f"{SPINS} None"
    inherited = f"import subprocess, sys, ssfnas; subprocess.run([sys.executable, '-c', {LOOK!r}])"
    assert python(inherited) == f"{SPINS} None"


@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
    ],
)
def test_what_the_user_says_of_waiting_is_kept(variables, kept):
    code = f"import ssfnas; {LOOK}; print(ssfnas.waiting)"
    found, how = python(code, **variables).splitlines()
    ((name, value),) = variables.items()
    assert found == kept
    assert how == f"{name}={value} (set in the environment)"


def test_torch_that_was_imported_before_is_said():
    code = f"import torch, ssfnas; {LOOK}; print(ssfnas.waiting)"
    found, how = python(code).splitlines()
    assert found == "None None"
    assert how.startswith("long spins (torch was imported before ssfnas: ")


def test_more_threads_than_cpus_are_refused(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    wanted = pytest.raises(RequestError, match="--threads 17: this machine has 4 CPUs")
    with wanted, computing_threads(17):
        pass
