"""``ssfnas COMMAND`` is ``python -m ssfnas.COMMAND``."""

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ssfnas import search
from ssfnas.__main__ import COMMANDS, main


@pytest.mark.parametrize("words", [[], ["--help"]], ids=["nothing", "help"])
def test_the_commands_are_listed_with_a_line_each_and_without_torch(words):
    code = (
        f"import sys; from ssfnas.__main__ import main; main({words}); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for name in COMMANDS:
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.endswith(".")


def test_a_reader_that_goes_away_is_no_fault():
    command = f"{shlex.quote(sys.executable)} -u -m ssfnas | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_gets_the_rest_of_the_words(capsys):
    words = ["--print-config", "--layers", "5"]
    with pytest.raises(SystemExit):
        search.main(words)
    printed = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["search", *words])
    assert capsys.readouterr().out == printed
    assert main(["derive"]) == 2
    assert capsys.readouterr().err.startswith("ssfnas.derive: error: --run is missing")


@pytest.mark.parametrize(("name", "hint"), [("serch", "(did you mean search?)"), ("a\nb", "a b")])
def test_an_unknown_command_is_one_line(capsys, name, hint):
    assert main([name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ssfnas: error: unknown command ")
    assert said.count("\n") == 1
    assert hint in said


def test_it_is_installed_under_its_name():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"ssfnas": "ssfnas.__main__:main"}
    done = subprocess.run(
        [sys.executable, "-m", "ssfnas", "env", "--no"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
