"""Strategies that give something else than they should: one line, before the first step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, trainer_of
from tiny_runs import tiny_search

from ssfnas.errors import NumericalError, RequestError
from ssfnas.pipeline.search_run import run_search
from ssfnas.strategies import STRATEGIES, SearchStrategy
from ssfnas.strategies.strategy import HOOKS, misspelt_hook


@pytest.fixture
def wrong(tmp_path):
    """A function that builds a search with a strategy of these attributes."""

    def build(**attributes):
        STRATEGIES.register("wrong")(type("Wrong", (SearchStrategy,), attributes))
        return trainer_of(write_npz(tmp_path / "images.npz", (24, 16, 8)), "wrong")

    yield build
    STRATEGIES._entries.pop("wrong", None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda alpha: alpha.softmax(1)[:, :-1], r"float64 \[5, 6\]"),
        (lambda alpha: alpha.softmax(1).sum(1, keepdim=True), r"float64 \[5, 1\]"),
        (lambda alpha: alpha.softmax(1).T, r"float64 \[7, 5\]"),
        (lambda alpha: alpha.softmax(1).bfloat16(), "bfloat16"),
        (lambda alpha: None, "NoneType"),
        (lambda alpha: 0.5, "float"),
    ],
    ids=["fewer", "one", "transposed", "bf16", "nothing", "number"],
)
def test_weights_that_are_no_table(wrong, given, told):
    # The first alphas are fp32 until the network is on its device.
    told = told.replace("float64", "float(32|64)")
    with pytest.raises(RequestError, match=rf"wrong: weights\(\) of the normal cell gives {told}"):
        wrong(weights=lambda self, alpha, cell: given(alpha))


@pytest.mark.parametrize(
    ("phases", "cells", "told"),
    [
        (("alpha", "weight", "decision"), ("reduce",), "the reduce cell are not finite"),
        (("weight",), ("reduce", "normal"), "the normal and reduce cells are not finite"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_said_to_be(wrong, tmp_path, phases, cells, told, value):
    def weights(self, alpha, cell):
        table = alpha.softmax(dim=1)
        return table * value if self.phase in phases and cell in cells else table

    wrong(weights=weights)
    half = "alpha" if "alpha" in phases else "weight"
    words = (
        rf"^step 1: the terms? {half}/loss.* not finite; the weights that --strategy wrong gives "
        rf"{told}; the last good checkpoint is step-00000000-\w+\.pt$"
    )
    settings = {"strategy": "wrong", "objective": "supervised", "knn": False}
    with pytest.raises(NumericalError, match=words):
        run_search(tiny_search(tmp_path / "images.npz", tmp_path / "run", **settings))


def test_where_the_weights_are_finite_nothing_is_said_of_them(wrong):
    trainer = wrong(penalty=lambda self: {"loss": torch.tensor(float("nan"))})
    with pytest.raises(NumericalError, match=r"^the term alpha/loss is not finite$"):
        trainer.run_step()
    assert trainer.not_finite() == ""


@pytest.mark.parametrize("value", [0.1, torch.ones(()), {"loss": 0.1}, {"loss": torch.ones(2)}])
def test_penalties_that_are_no_terms(wrong, value):
    trainer = wrong(penalty=lambda self: value)
    with pytest.raises(RequestError, match=r"penalty\(\) has to give a dict of scalar tensors"):
        run(trainer, 1)


@pytest.mark.parametrize(
    "left",
    [
        {"normel": torch.ones(5, 7, dtype=torch.bool)},
        {"normal": torch.ones(5, 7)},
        {"normal": torch.ones(5, 6, dtype=torch.bool)},
    ],
    ids=["name", "dtype", "shape"],
)
def test_what_close_does_not_take(wrong, left):
    with pytest.raises(RequestError, match=r"close\(\) takes bool tables of what is left"):
        wrong().strategy.close(left)


def test_what_a_strategy_closes_by_itself_is_logged(wrong):
    def end_epoch(self, moment):
        left = {cell: mask.clone() for cell, mask in self.open.items()}
        left["normal"][0, 0] = False
        self.close(left)

    trainer = wrong(end_epoch=end_epoch)
    trainer.run_step()
    while not trainer.epoch_ended:
        trainer.run_step()
    assert trainer.end_epoch()["open/normal"] == 34


@pytest.mark.parametrize(
    ("name", "value", "hook"),
    [
        ("after_alpha_steps", lambda self, gradients: None, "after_alpha_step"),
        ("begin_steps", lambda self, moment: None, "begin_step"),
        ("begin_epoch", lambda self, moment: None, "end_epoch"),
        ("beginStep", lambda self, moment: None, "begin_step"),
        ("end_epochs", lambda self, moment: None, "end_epoch"),
        ("penalties", lambda self: {}, "penalty"),
        ("weigths", lambda self, alpha, cell: alpha, "weights"),
        ("weight", lambda self, alpha, cell: alpha, "weights"),
        ("weight_first", True, "weights_first"),
        ("normalises_edges", True, "normalizes_edges"),
        ("keep", ("mean",), "kept"),
    ],
)
def test_a_hook_that_is_misspelt_is_refused(wrong, name, value, hook):
    told = rf"--strategy wrong: Wrong\.{name} is no hook .* \(did you mean {hook}\?\)"
    with pytest.raises(RequestError, match=told):
        wrong(**{name: value})


def test_a_base_may_misspell_a_hook_as_well():
    class Plain:
        def penaltys(self):
            return {}

    assert misspelt_hook(type("Both", (SearchStrategy, Plain), {})) == ("penaltys", "penalty")


def test_helpers_have_names_of_their_own():
    helpers = {
        "l2_penalty": lambda self: 0, "raw_weights": lambda self: 0, "temperature": lambda self: 0,
        "noise": lambda self: 0, "keep": lambda self: 0, "anneal": lambda self: 0,
        "weight": 0.5, "sigma": 1.0, "_begin_steps": lambda self: 0, "cosine": lambda self: 0,
        "update_gates": lambda self: 0, "gradient_norms": lambda self: 0, "step_size": 0.1,
    }  # fmt: skip
    assert misspelt_hook(type("Helped", (SearchStrategy,), helpers)) is None


def test_what_the_page_calls_hooks_are_the_hooks():
    page = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
    table = (
        page.read_text(encoding="utf-8").partition("| hook or attribute")[2].partition("\n\n")[0]
    )
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert {name for cell in cells for name in re.findall(r"`(\w+)", cell)} == set(HOOKS)
