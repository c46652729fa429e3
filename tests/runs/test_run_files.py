"""What a run directory holds reads back, and what is missing or damaged is named."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssfnas.config import RetrainConfig, SearchConfig
from ssfnas.errors import RequestError
from ssfnas.pipeline.run import load
from ssfnas.runs.run_directory import RunDirectory
from ssfnas.runs.run_files import RunFiles

ENVIRONMENT = {"torch": "2.11.0", "commit": None, "threads": 2}


def written(path, config=None, environment=ENVIRONMENT) -> RunDirectory:
    """A run that has written its config."""
    config = SearchConfig(seed=3) if config is None else config
    command = "search" if isinstance(config, SearchConfig) else "retrain"
    with RunDirectory.create(path, command=command, overwrite=True) as run:
        run.write_config(config, environment)
    return run


def test_the_config_reads_back_without_the_invocation(tmp_path):
    config = SearchConfig(seed=3, steps=7, weight_lr=3e-05, operations=["a"], overwrite=True)
    run = RunFiles(written(tmp_path, config).path)
    config.overwrite = False
    assert run.command == "search"
    assert run.read_config() == config
    assert run.environment == ENVIRONMENT
    assert (tmp_path / "config.yaml").read_text().startswith("command: search\n")


def test_a_run_with_plugins_may_use_their_names(tmp_path):
    config = RetrainConfig(loss="mine", plugins=["a.py"])
    assert RunFiles(written(tmp_path, config).path).read_config() == config


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RequestError, match="is no folder"):
        RunFiles(tmp_path / "none")
    with pytest.raises(RequestError, match=r"config\.yaml is missing"):
        RunFiles(tmp_path)
    for text in ("seed: 3\n", "command: [a]\nenvironment: {}\n"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(RequestError, match="not written by a run"):
            RunFiles(tmp_path)


def test_a_config_without_environment_is_shown_but_not_gone_on_with(tmp_path):
    (tmp_path / "config.yaml").write_text("command: search\nseed: 3\n")
    files = RunFiles(tmp_path)
    assert (files.values, files.environment) == ({"seed": 3}, {})
    with pytest.raises(RequestError, match="names no environment"):
        files.read_config()


def test_edited_files_are_checked(tmp_path):
    file = written(tmp_path).path / "config.yaml"
    file.write_text(file.read_text().replace("seed: 3", "seed: x"))
    with pytest.raises(RequestError, match=r"config\.yaml, line 4: seed: x: expected"):
        RunFiles(tmp_path).read_config()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text(min_size=1),
    names=st.lists(st.text(min_size=1)),
    rate=st.floats(min_value=1e-300, max_value=1e300),
)
def test_any_values_read_back(tmp_path, text, names, rate):
    config = SearchConfig(dataset=text, operations=names, weight_lr=rate)
    run = RunFiles(written(tmp_path, config, {"text": text}).path)
    assert run.read_config() == config
    assert run.environment == {"text": text}


def test_json_and_arrays_read_back(tmp_path):
    run = written(tmp_path)
    run.write_json("evaluation.json", {"a": [1, None, "é"]})
    arrays = {"normal": np.arange(8.0).reshape(2, 2, 2), "operations": np.array(["a", "bc"])}
    run.write_npz("alphas.npz", arrays)
    files = RunFiles(tmp_path)
    assert files.read_json("evaluation.json") == files.evaluation == {"a": [1, None, "é"]}
    assert files.read_alphas().keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(files.alphas[name], array)


def test_nothing_is_unpickled(tmp_path):
    np.savez(written(tmp_path).path / "alphas.npz", a=np.array([{}]))
    with pytest.raises(RequestError, match="damaged"):
        RunFiles(tmp_path).read_alphas()


@pytest.mark.parametrize("name", ["evaluation.json", "alphas.npz"])
def test_missing_and_damaged_files(tmp_path, name):
    run = written(tmp_path)
    files = RunFiles(tmp_path)
    read = files.read_alphas if name == "alphas.npz" else lambda: files.read_json(name)
    with pytest.raises(RequestError, match="is missing"):
        read()
    run.write_bytes(name, b"{\xff")
    with pytest.raises(RequestError, match="is damaged"):
        read()


def test_half_a_line_at_the_end_of_the_metrics_is_left_out(tmp_path):
    run = written(tmp_path)
    assert RunFiles(tmp_path).read_metrics() == ([], True)
    run.write_text("metrics.jsonl", '{"step": 1}\n\n{"step": 2}')
    assert RunFiles(tmp_path).read_metrics() == ([{"step": 1}, {"step": 2}], True)
    run.write_text("metrics.jsonl", '{"step": 1}\n{"ste')
    files = RunFiles(tmp_path)
    assert files.read_metrics() == ([{"step": 1}], False)
    assert (files.metrics, files.metrics_are_whole) == ([{"step": 1}], False)
    with pytest.raises(RequestError, match=r"metrics\.jsonl is damaged: its last line"):
        load(tmp_path).metrics  # noqa: B018
