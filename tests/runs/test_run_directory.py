"""Run directories are made, found again, locked, and never swallow anything of the user's."""

import errno
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from ssfnas.config import SearchConfig
from ssfnas.errors import RequestError
from ssfnas.runs.run_directory import LOCK_FILE, RUN_FILES, RunDirectory

ENVIRONMENT = {"torch": "2.11.0", "commit": None, "threads": 2}


def create(path, **options) -> RunDirectory:
    return RunDirectory.create(path, **{"command": "search", **options})


def finished_run(path) -> None:
    """A directory with everything that a run leaves behind."""
    with create(path) as run:
        run.write_config(SearchConfig(seed=3), ENVIRONMENT)
        for pattern in RUN_FILES:
            if pattern != "config.yaml":
                file = path / pattern.replace("*", "x")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("old")


def problem_of(path, **options) -> str:
    with pytest.raises(RequestError) as caught:
        create(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestCreate:
    def test_parents_are_made(self, tmp_path):
        with create(tmp_path / "a" / "b" / "c") as run:
            assert run.path.is_dir()
            assert (run.path / "checkpoints").is_dir()

    def test_without_a_name_each_gets_one_of_its_own(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with create(None) as one, create(None) as two, create(None, command="retrain") as three:
            assert len({one.path, two.path, three.path}) == 3
            assert re.fullmatch(r"runs/search-\d{8}-\d{6}(-\d+)?", str(one.path))
            assert str(three.path).startswith("runs/retrain-")

    def test_a_run_is_neither_replaced_nor_gone_on_with_unasked(self, tmp_path):
        finished_run(tmp_path / "run")
        before = sorted(os.listdir(tmp_path / "run"))
        problem = problem_of(tmp_path / "run")
        assert "holds a run already" in problem
        assert "--resume" in problem
        assert "--overwrite" in problem
        assert sorted(os.listdir(tmp_path / "run")) == before

    def test_resume_keeps_everything(self, tmp_path):
        finished_run(tmp_path / "run")
        before = {f: f.read_bytes() for f in (tmp_path / "run").rglob("[!.]*") if f.is_file()}
        create(tmp_path / "run", resume=True).close()
        assert {f: f.read_bytes() for f in before} == before

    def test_overwrite_removes_what_a_run_writes_and_nothing_else(self, tmp_path):
        run = tmp_path / "run"
        finished_run(run)
        for name in ("notes.txt", "checkpoints/mine.pt", "alphas_backup.npz"):
            (run / name).write_text("mine")
        (run / "extra").mkdir()
        (run / "extra" / "metrics.jsonl").write_text("mine")
        create(run, overwrite=True).close()
        left = sorted(str(f.relative_to(run)) for f in run.rglob("*") if f.is_file())
        assert left == sorted(
            [
                LOCK_FILE,
                "notes.txt",
                "checkpoints/mine.pt",
                "alphas_backup.npz",
                "extra/metrics.jsonl",
            ]
        )

    def test_overwrite_does_not_follow_links(self, tmp_path):
        run, outside = tmp_path / "run", tmp_path / "outside"
        finished_run(run)
        outside.mkdir()
        (outside / "step-00000001-x.pt").write_text("mine")
        (outside / "log.txt").write_text("mine")
        (run / "log.txt").unlink()
        (run / "log.txt").symlink_to(outside / "log.txt")
        for file in (run / "checkpoints").iterdir():
            file.unlink()
        (run / "checkpoints").rmdir()
        (run / "checkpoints").symlink_to(outside)
        create(run, overwrite=True).close()
        assert sorted(os.listdir(outside)) == ["log.txt", "step-00000001-x.pt"]
        assert not (run / "log.txt").is_symlink()

    @pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
    @pytest.mark.parametrize("name", ["thesis.tex", "config.yaml", "metrics.jsonl", ".hidden"])
    def test_a_folder_of_the_users_is_left_alone(self, tmp_path, options, name):
        (tmp_path / name).write_text("mine: 1")
        problem = problem_of(tmp_path, **options)
        assert "holds files that are not a run's" in problem or "holds no run" in problem
        assert os.listdir(tmp_path) == [name]

    def test_an_empty_folder_is_used(self, tmp_path):
        create(tmp_path).close()

    @pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
    def test_a_run_of_another_command_is_left_alone(self, tmp_path, options):
        finished_run(tmp_path / "run")
        problem = problem_of(tmp_path / "run", command="retrain", **options)
        assert "holds a run of search, not of retrain" in problem
        assert (tmp_path / "run" / "genotype.json").exists()

    def test_nothing_to_resume(self, tmp_path):
        for path in (tmp_path / "none", tmp_path):
            assert "holds no run to go on with" in problem_of(path, resume=True)
        assert not (tmp_path / "none").exists()
        assert "--resume needs --out" in problem_of(None, resume=True)

    def test_resume_and_overwrite_together(self, tmp_path):
        assert "exclude each other" in problem_of(tmp_path, resume=True, overwrite=True)

    def test_a_file_in_place_of_the_folder_or_of_a_parent(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        assert "is a file" in problem_of(tmp_path / "file")
        assert "a part of that path is a file" in problem_of(tmp_path / "file" / "run")

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
    @pytest.mark.parametrize("function", ["mkdir", "open"])
    def test_places_that_cannot_be_written(self, tmp_path, monkeypatch, code, function):
        real = getattr(os, function)

        def fail(path, *args, **options):
            if str(path).startswith(str(tmp_path)) and not str(path).endswith(str(tmp_path)):
                raise OSError(code, os.strerror(code), str(path))
            return real(path, *args, **options)

        monkeypatch.setattr(os, function, fail)
        problem = problem_of(tmp_path / "run")
        assert os.strerror(code) in problem
        assert str(tmp_path / "run") in problem

    def test_a_run_that_died_before_its_config_can_be_started_again(self, tmp_path):
        create(tmp_path / "run").close()
        create(tmp_path / "run").close()


class TestLock:
    def test_two_at_once_are_refused_and_the_second_may_come_later(self, tmp_path):
        with create(tmp_path / "run") as run:
            run.write_config(SearchConfig(), ENVIRONMENT)
            problem = problem_of(tmp_path / "run", overwrite=True)
            assert f"in use by search, process {os.getpid()}" in problem
            assert (tmp_path / "run" / "config.yaml").exists()
        create(tmp_path / "run", resume=True).close()

    def test_a_failed_attempt_does_not_keep_the_lock(self, tmp_path):
        finished_run(tmp_path / "run")
        problem_of(tmp_path / "run")
        create(tmp_path / "run", resume=True).close()

    def test_death_unlocks_even_where_a_forked_worker_lives_on(self, tmp_path):
        program = (
            "import os, sys, time\n"
            "from ssfnas.runs.run_directory import RunDirectory\n"
            "run = RunDirectory.create(sys.argv[1], command='search')\n"
            "worker = os.fork()\n"
            "if worker == 0:\n"
            "    time.sleep(60)\n"
            "    os._exit(0)\n"
            "time.sleep(0.2)\n"
            "print(worker, flush=True)\n"
            "time.sleep(60)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        worker = int(process.stdout.readline())
        try:
            assert f"process {process.pid}" in problem_of(tmp_path / "run")
            process.kill()
            process.wait()
            create(tmp_path / "run").close()
        finally:
            os.kill(worker, signal.SIGKILL)
            process.stdout.close()

    def test_a_dropped_object_unlocks(self, tmp_path):
        create(tmp_path / "run")
        create(tmp_path / "run").close()


def test_nothing_is_pickled(tmp_path):
    with create(tmp_path) as run, pytest.raises(TypeError, match="array a holds Python objects"):
        run.write_npz("alphas.npz", {"a": np.array([{}])})


def test_json_has_no_nan(tmp_path):
    with create(tmp_path) as run, pytest.raises(ValueError, match="JSON"):
        run.write_json("evaluation.json", {"a": float("nan")})


def test_lists_of_numbers_take_a_line_and_texts_stay_as_they_are(tmp_path):
    value = {
        "rows": [[1, -2.5e-7], [None, 3]], "none": [], "texts": ["[1,  2]", "a\n[\n  1\n]"],
        "mixed": [1, "x"], "truth": [True, False],
    }  # fmt: skip
    with RunDirectory.create(tmp_path / "run", command="search") as run:
        text = run.write_json("x.json", value).read_text()
    assert json.loads(text) == value
    assert "\n    [1, -2.5e-07],\n    [null, 3]\n" in text
