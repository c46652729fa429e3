"""The env command works everywhere, and says what is missing."""

import re
import subprocess
import sys

import torch

import ssfnas
from ssfnas import env
from ssfnas.runtime import environment


def test_every_package_and_device_is_named(capsys):
    assert env.main([]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    facts = {name.strip(): value.strip() for name, value in lines.items()}
    assert facts["torch"] == torch.__version__.partition("+")[0] or facts["torch"]
    assert facts["python"].startswith(sys.version.split()[0])
    for name in environment.PACKAGES:
        assert name in facts
    assert {"platform", "processor", "commit", "threads", "waiting", "distributed"} <= set(facts)


def test_threads_are_said_with_their_reason(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert env.main([]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^threads +{torch.get_num_threads()} \(OMP_NUM_THREADS=5\)$", out, re.M)
    assert re.search(rf"^waiting +{re.escape(ssfnas.waiting)}$", out, re.M)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    assert env.main([]) == 0
    assert re.search(
        r"^threads +environment variable LOCAL_WORLD_SIZE is 'many'", capsys.readouterr().out, re.M
    )


def test_flags_are_refused(capsys):
    assert env.main(["--verbose"]) == 2
    assert capsys.readouterr().err.startswith("ssfnas.env: error: unknown flag --verbose")


def test_a_broken_torch_is_a_line_and_not_a_crash(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "ssfnas.ops", None)
    assert env.main([]) == 0
    out = capsys.readouterr().out
    assert "torch fails" in out
    assert "backends fail" in out


def test_the_environment_of_a_run_is_plain():
    facts = environment.environment()
    assert facts["torch"] == environment.package_versions()["torch"]
    assert all(isinstance(value, str | int | None) for value in facts.values())


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package-at-all"))
    versions = environment.package_versions()
    assert versions["no-such-package-at-all"] is None
    assert versions["torch"] is not None


def test_the_commit_is_that_of_our_own_checkout(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "ssfnas"
    package.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(package / "runtime" / "environment.py"))
    assert environment.commit() is None

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(package.parent), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (package / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "a")
    assert environment.commit() == git("rev-parse", "HEAD")
    (package / "a.py").write_text("2")
    assert environment.commit() == git("rev-parse", "HEAD") + "-modified"

    inner = package / "site-packages" / "ssfnas"
    inner.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(inner / "runtime" / "environment.py"))
    assert environment.commit() is None


def test_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment.commit() is None
