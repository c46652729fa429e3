import shutil

import pytest

from ssfnas import report
from ssfnas.config import SearchConfig
from ssfnas.yaml_files import dump_yaml


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    values = {"command": "search", "epochs": SearchConfig().epochs, "environment": {}}
    (path / "config.yaml").write_text(dump_yaml(values))
    return path


def test_the_page_goes_into_the_first_run_and_its_place_is_printed(run, capsys):
    assert report.main(["--run", str(run)]) == 0
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert str(run / "report.html") in capsys.readouterr().out


def test_several_runs_make_one_page_elsewhere(run, tmp_path):
    page = tmp_path / "page.html"
    shutil.copytree(run, tmp_path / "other")
    assert report.main(["--run", str(run), str(tmp_path / "other"), "--out", str(page)]) == 0
    assert "2 runs" in page.read_text()
    assert not (run / "report.html").exists()


def test_the_same_run_twice_is_refused_whatever_its_path(run, tmp_path, capsys):
    (tmp_path / "link").symlink_to(run)
    for other in (run, run / ".." / "run", tmp_path / "link"):
        assert report.main(["--run", str(run), str(other)]) == 2
        said = f"--run {run} and {other} are the same run: name each once"
        assert said in capsys.readouterr().err
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["--run", "absent"], ["--run", "{run}", "--out", "{run}/no/page.html"]]
)
def test_a_wrong_request_is_one_line_and_exit_code_2(run, capsys, arguments):
    assert report.main([word.format(run=run) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error
