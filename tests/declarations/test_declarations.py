"""What is declared without torch is there, and nothing is said twice."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys

import pytest

from ssfnas.config import DeriveConfig, RetrainConfig, SearchConfig
from ssfnas.data import VIEWS
from ssfnas.declarations.losses import LOSSES, Loss
from ssfnas.declarations.stages import PRETRAINING
from ssfnas.errors import RequestError
from ssfnas.options import option, option_values
from ssfnas.presets import preset_names, preset_values
from ssfnas.spaces import SUPERNETS
from ssfnas.strategies import DERIVATIONS, STOPPERS, STRATEGIES

CONFIGS = {"search": SearchConfig, "derive": DeriveConfig, "retrain": RetrainConfig}


def selectors() -> dict[str, dict]:
    options = [o for config in CONFIGS.values() for o in option_values(config).values()]
    return {option.name: option.components for option in options if option.components}


@pytest.mark.parametrize("kind", sorted(selectors()))
def test_what_builds_a_component_is_where_its_declaration_says(kind):
    for component in selectors()[kind].values():
        if isinstance(component.build, str):
            module, _, name = component.build.partition(":")
            assert callable(getattr(importlib.import_module(module), name))


def test_every_option_of_a_component_is_a_typed_field_of_its_config():
    for config in CONFIGS.values():
        assert list(option_values(config)) == [f.name for f in dataclasses.fields(config)]


def test_choices_are_the_names_of_the_registries():
    search, retrain = option_values(SearchConfig), option_values(RetrainConfig)
    for name, registry in (("strategy", STRATEGIES), ("derive", DERIVATIONS)):
        assert list(search[name].choices) == registry.names()
    assert list(search["early_stop"].choices) == ["none", *STOPPERS]
    assert list(search["supernet"].choices) == SUPERNETS.names()
    assert set(retrain["augment"].choices) <= set(VIEWS)
    assert list(retrain["loss"].choices) == LOSSES.names()
    assert retrain["pretrain_epochs"].components == {"above 0": PRETRAINING}


def test_declarations_do_without_torch():
    code = (
        "import sys; from ssfnas import config; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_holds_what_differs_from_the_defaults_alone(name):
    command = next(c for c in CONFIGS if name in preset_names(c))
    defaults = CONFIGS[command]()
    for key, value in preset_values(CONFIGS[command], name, command).items():
        assert value != getattr(defaults, key), key


@pytest.mark.parametrize("name", ["epochs", "print_config"])
def test_an_option_that_there_is_already_is_refused(name):
    field = (name, int, option(3, "of my own"))
    mine = dataclasses.make_dataclass("Mine", [field], kw_only=True)
    LOSSES.add("mine", Loss(len, (mine,)))
    flag = "--" + name.replace("_", "-")
    try:
        with pytest.raises(RequestError, match=f"loss 'mine' declares the option {flag}"):
            option_values(RetrainConfig)
    finally:
        del LOSSES._entries["mine"]
