"""Runs that did not come to their end are refused with the line that goes on with them."""

import numpy as np
import pytest

from ssfnas import derive, retrain
from ssfnas.errors import RequestError
from ssfnas.runs.finished_runs import require_genotype
from ssfnas.yaml_files import dump_yaml


@pytest.fixture
def begun(tmp_path):
    """Writes a run's directory as it is right after the run has begun."""

    def write(command="search", **values):
        path = tmp_path / command
        path.mkdir()
        content = {"command": command, **values, "environment": {}}
        (path / "config.yaml").write_text(dump_yaml(content))
        return path

    return write


def refused(capsys, main, *words):
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_search_that_has_not_finished_is_gone_on_with(begun, small_npz, tmp_path, capsys):
    path = begun()
    way_on = f"has not finished: go on with it by python -m ssfnas.search --out {path} --resume"
    words = ["--dataset", small_npz, "--device", "cpu", "--out", tmp_path / "out"]
    assert refused(capsys, retrain.main, *words, "--genotype", path) == (
        f"ssfnas.retrain: error: --genotype {path} holds a search that {way_on}"
    )
    assert not (tmp_path / "out").exists()
    assert refused(capsys, derive.main, "--run", path, "--derive", "darts") == (
        f"ssfnas.derive: error: --run {path} holds a search that {way_on}"
    )


def test_a_finished_search_without_a_genotype_is_derived_from(begun):
    path = begun(plugins=["mine.py"])
    np.savez(path / "alphas.npz", operations=np.array(["none"]), normal=np.zeros((1, 5, 1)))
    with pytest.raises(RequestError, match=r"ssfnas.derive --plugins mine.py --run .* darts"):
        require_genotype(path, f"--genotype {path}")


def test_retrainings_are_gone_on_with_but_those_of_baselines_have_no_genotype(begun, tmp_path):
    path = begun("retrain")
    with pytest.raises(RequestError, match=r"python -m ssfnas.retrain --out .*retrain --resume"):
        require_genotype(path, f"--genotype {path}")
    (path / "config.yaml").unlink()
    path.rmdir()
    path = begun("retrain", model="timm:resnet18")
    with pytest.raises(RequestError, match=r"retraining of timm:resnet18, which has no genotype"):
        require_genotype(path, f"--genotype {path}")


def test_whatever_is_no_run_passes(tmp_path):
    for name in (tmp_path, tmp_path / "absent.json", "DARTS_V2"):
        require_genotype(name, f"--genotype {name}")
