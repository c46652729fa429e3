"""Command lines become configs; bad ones become one line and an exit code."""

import dataclasses
import errno
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import yaml
from command_words import CONFIGS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ssfnas.commandline import main, parse
from ssfnas.config import SearchConfig
from ssfnas.errors import NumericalError, RequestError
from ssfnas.options import option, option_values
from ssfnas.presets import preset_names, preset_values
from ssfnas.runs.run_directory import RunDirectory
from ssfnas.runtime.interruption import Interrupted
from ssfnas.yaml_files import parse_yaml


def config_of(*argv: str, command: str = "search", **options: Any) -> Any:
    return parse(CONFIGS[command], argv, f"ssfnas.{command}", "", **options)


def problem_of(*argv: str, command: str = "search", **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        config_of(*argv, command=command, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


class TestFlags:
    def test_without_arguments_all_values_are_the_defaults(self):
        assert config_of() == SearchConfig()

    @pytest.mark.parametrize("flag", ["--batch-size", "--batch_size"])
    @pytest.mark.parametrize("joined", [True, False])
    def test_dashes_and_underscores_with_or_without_equals(self, flag, joined):
        words = [f"{flag}=7"] if joined else [flag, "7"]
        assert config_of(*words).batch_size == 7

    def test_values_have_the_type_of_their_field(self):
        config = config_of("--w01", "3", "--imbalance-ratio", "100", "--steps", "12")
        assert (config.w01, config.imbalance_ratio, config.steps) == (3.0, 100.0, 12)
        kinds = (type(config.w01), type(config.imbalance_ratio), type(config.steps))
        assert kinds == (float, float, int)

    def test_null_is_none_where_a_field_may_be_absent(self):
        config = config_of("--imbalance-ratio", "none", "--steps", "null", "--out", "null")
        assert (config.imbalance_ratio, config.steps, config.out) == (None, None, None)

    @pytest.mark.parametrize(
        ("words", "value"),
        [
            (["--knn"], True),
            (["--no-knn"], False),
            (["--no_knn"], False),
            (["--knn", "false"], False),
            (["--knn=no"], False),
            (["--knn", "True"], True),
            (["--knn", "--seed", "1"], True),
            (["--no-knn", "--knn"], True),
        ],
    )
    def test_booleans(self, words, value):
        assert config_of(*words).knn is value

    @pytest.mark.parametrize(
        "words",
        [["a,b"], ["a", "b"], ["a, b"], ['["a", "b"]'], ["[a, b]"], ["[a,b]"]],
    )
    def test_lists_of_names(self, words):
        assert config_of("--operations", *words).operations == ["a", "b"]

    @pytest.mark.parametrize("words", [["64,32"], ["64", "32"], ["[64, 32]"], ["[64]", "32"]])
    def test_lists_of_numbers(self, words):
        assert config_of("--projector", *words).projector == [64, 32]

    def test_an_empty_list_is_written_with_brackets(self):
        assert config_of("--operations", "[]").operations == []

    def test_the_last_of_equal_flags_counts(self):
        assert config_of("--seed", "1", "--seed", "2").seed == 2

    def test_defaults_that_are_lists_are_not_shared(self):
        config_of().projector.append(1)
        assert config_of().projector == [2048, 2048, 2048]


class TestBadFlags:
    @pytest.mark.parametrize(
        ("words", "parts"),
        [
            (["--epochs", "ten"], ["--epochs ten", "a whole number, at least 1"]),
            (["--epochs", "0"], ["--epochs 0", "at least 1"]),
            (["--epochs", "1.5"], ["--epochs 1.5", "whole number"]),
            (["--epochs", "9" * 30], ["--epochs 9", "whole number"]),
            (["--epochs", "9" * 5000], ["--epochs 9", "whole number"]),
            (["--order", "3"], ["--order 3", "at least 1 and at most 2"]),
            (["--weight-lr", "0"], ["--weight-lr 0", "above 0"]),
            (["--weight-momentum", "1"], ["--weight-momentum 1", "below 1"]),
            (["--weight-lr", "nan"], ["--weight-lr nan", "a number"]),
            (["--weight-lr", "inf"], ["--weight-lr inf", "a number"]),
            (["--weight-lr", "-inf"], ["--weight-lr -inf", "a number"]),
            (["--weight-lr", "1e999"], ["--weight-lr inf", "a number"]),
            (["--w01", "-1e-3"], ["--w01 -0.001", "at least 0"]),
            (["--w01=-1"], ["--w01 -1", "at least 0"]),
            (
                ["--strategy", "dart"],
                ["--strategy dart", "darts, fairdarts, ", " or random", "mean dart"],
            ),
            (["--profile", "linear"], ["--profile linear", "exp or step"]),
            (["--knn", "maybe"], ["--knn maybe", "true or false"]),
            (["--no-knn=3"], ["--no-knn takes no value"]),
            (["--projector", "2048,x"], ["--projector x", "2048,2048"]),
            (["--projector", "[1, 2.5]"], ["--projector 2.5", "whole number"]),
            (["--projector", "2048,"], ["--projector ''", "2048,2048"]),
            (["--operations", "[1]"], ["--operations 1", "a text"]),
            (["--seed"], ["--seed needs a value", "a whole number"]),
            (["--operations"], ["--operations needs a value", "a list such as one,two"]),
            (["--out="], ["--out ''", "a text"]),
            (["--config"], ["--config needs a value"]),
            (["--seed", "1", "2"], ["unexpected argument 2"]),
            (["search"], ["unexpected argument search"]),
            (["-5"], ["unexpected argument -5"]),
            (["--"], ["unknown flag --"]),
            (["-x"], ["unknown flag -x"]),
            (["--epoch", "3"], ["unknown flag --epoch", "did you mean --epochs?"]),
            (["--batch", "3"], ["unknown flag --batch"]),
            (["--xyzzy"], ["unknown flag --xyzzy", "--help"]),
            (["--lr", "0.1"], ["unknown flag --lr (did you mean --weight-lr or --alpha-lr?)"]),
            (["--lr-min=0.1"], ["unknown flag --lr-min (did you mean --weight-lr-min?)"]),
            (["--momentum", "0.5"], ["did you mean --weight-momentum?"]),
            (["--learning_rate", "1"], ["did you mean --weight-lr or --alpha-lr?"]),
            (["--loss", "ce"], ["did you mean --objective?"]),
            (["--batch", "3"], ["did you mean --batch-size?"]),
            (["--dataset", "--seed", "1"], ["--dataset needs a value"]),
            (["--dataset", "a\nb", "--seed", "x\ny"], [r"--seed 'x\ny'"]),
        ],
    )
    def test_name_the_flag_the_value_and_what_would_be_right(self, words, parts):
        problem = problem_of(*words)
        for part in parts:
            assert part in problem

    @pytest.mark.parametrize(
        ("flag", "meant"),
        [
            ("--weight-lr", "--lr"),
            ("--weight-momentum", "--momentum"),
            ("--run", "--genotype"),
            ("--objective", "--loss"),
            ("--supernet", "--network"),
            ("--alpha-warmup-epochs", "--warmup-epochs"),
        ],
    )
    def test_hint_at_what_another_command_calls_otherwise(self, flag, meant):
        problem = problem_of(flag, "1", command="retrain")
        assert problem == f"unknown flag {flag} (did you mean {meant}?)"

    def test_required_fields(self):
        assert "--run is missing" in problem_of(command="derive")
        assert "--run is missing" in problem_of(command="report")
        assert config_of("--run", "a", "b", command="report").run == ["a", "b"]

    def test_both_epochs_and_steps(self):
        assert problem_of("--epochs", "3", "--steps", "4") == (
            "--epochs has no effect with --steps 4: leave it out or use --steps null"
        )


class TestRelevance:
    def test_the_message_names_both_ways_out(self):
        assert problem_of("--mu", "2", "--objective", "ssl") == (
            "--mu has no effect with --objective ssl: leave it out or use --objective joint"
        )

    def test_a_flag_with_its_condition_passes(self):
        assert config_of("--mu", "2", "--objective", "joint").mu == 2

    def test_a_condition_of_a_condition_counts(self):
        problem = problem_of("--strategy", "random", "--threshold", "0.9")
        assert problem.startswith("--threshold has no effect with --strategy random")

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("--projector", "64,64"),
            ("--lambd", "0.01"),
            ("--bt-mixup", "4"),
            ("--finetune", "classifier"),
            ("--pretrain-lr", "0.1"),
            ("--pretrain-batch-size", "64"),
            ("--pretrain-weight-decay", "0.1"),
        ],
    )
    def test_settings_of_a_pre_training_that_there_is_not(self, flag, value):
        assert problem_of(flag, value, "--preset", "longtail", command="retrain") == (
            f"{flag} has no effect with --pretrain-epochs 0: leave it out or use "
            "--pretrain-epochs above 0"
        )
        assert config_of(flag, value, "--pretrain-epochs", "3", command="retrain")

    @pytest.mark.parametrize(
        ("words", "part"),
        [
            (["--loss", "ce"], "use --loss class-balanced or --loss ldam or --drw X"),
            (["--loss", "logit-adjusted"], "use --loss class-balanced or --loss ldam"),
            (["--loss", "logit-adjusted", "--drw", "0.5"], "use --loss class-balanced or"),
        ],
        ids=" ".join,
    )
    def test_beta_without_what_reads_it(self, words, part):
        assert part in problem_of("--beta", "0.9", *words, command="retrain")

    @pytest.mark.parametrize(
        "words",
        [
            ["--loss", "ce", "--drw", "0.5"],
            ["--loss", "focal", "--drw", "0"],
            ["--loss", "class-balanced"],
            ["--loss", "ldam"],
        ],
        ids=" ".join,
    )
    def test_deferred_reweighting_reads_beta(self, words):
        assert config_of("--beta", "0.9", *words, command="retrain").beta == 0.9

    @pytest.mark.parametrize(
        ("command", "words", "says"),
        [
            ("retrain", ["--label-smoothing", "0.1", "--loss", "focal"], "--crt-epochs above 0"),
            ("retrain", ["--channels", "4", "--model", "timm:x"], "--channels has no effect with"),
            ("retrain", ["--genotype", "DARTS_V2", "--model", "timm:x"], "--model derived"),
            ("retrain", ["--profile", "step"], "with --imbalance-ratio null"),
            (
                "search",
                ["--profile", "step", "--imbalance-ratio", "1"],
                "--imbalance-ratio above 1",
            ),
            ("search", ["--supernet", "reference", "--strategy", "random"], "--supernet has no"),
            ("search", ["--no-knn", "--strategy", "random"], "--no-knn has no effect with"),
            ("search", ["--knn-every", "2", "--no-knn"], "with --knn false"),
            ("search", ["--knn-every", "2", "--strategy", "random"], "with --strategy random"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_nothing_reads_these(self, command, words, says):
        assert says in problem_of(*words, command=command)

    def test_the_second_stage_reads_label_smoothing(self):
        words = ["--label-smoothing", "0.1", "--loss", "focal", "--crt-epochs", "2"]
        assert config_of(*words, command="retrain").label_smoothing == 0.1

    @pytest.mark.parametrize(
        ("command", "text", "said"),
        [
            ("search", "mu: 2.0\nobjective: ssl\n", "mu 2.0 has no effect with --objective ssl"),
            (
                "search",
                "order: 2\nstrategy: random\nalpha_lr: 0.003\nalpha_beta1: 0.5\n",
                "order 2 has no effect with --strategy random; alpha_beta1 0.5 has no effect with "
                "--strategy random",
            ),
            ("retrain", "beta: 0.5\nloss: ce\n", "beta 0.5 has no effect with --loss ce"),
            ("retrain", "steps: 3\nepochs: 2\n", "epochs 2 has no effect with --steps 3"),
        ],
        ids=["objective", "strategy", "loss", "steps"],
    )
    def test_values_of_files_without_effect_are_said(self, tmp_path, command, text, said):
        file = write(tmp_path / "a.yaml", text)
        with pytest.warns(UserWarning, match="has no effect with") as caught:
            config_of("--config", file, command=command)
        assert [str(warning.message) for warning in caught] == [f"{file}: {said}"]

    def test_defaults_and_overruled_values_of_files_are_not(self, tmp_path, recwarn, capsys):
        with pytest.raises(SystemExit):
            config_of("--print-config", "--strategy", "random")
        whole = write(tmp_path / "whole.yaml", capsys.readouterr().out)
        one = write(tmp_path / "one.yaml", "order: 2\nepochs: 3\n")
        config_of("--config", whole)
        config_of("--config", one, "--steps", "2")
        config_of("--config", one, "--config", whole)
        config_of("--preset", "darts", "--strategy", "random")
        assert not recwarn.list

    def test_the_other_field_may_come_from_a_preset(self):
        problem = problem_of("--preset", "darts", "--w01", "3")
        assert "--w01 has no effect with --strategy darts" in problem


class TestLayers:
    def test_preset_then_config_then_flags_whatever_the_order(self, tmp_path):
        file = write(tmp_path / "a.yaml", "batch_size: 7\nlayers: 5\n")
        groups = [["--preset", "darts"], ["--config", file], ["--layers", "3"]]
        for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]):
            config = config_of(*(word for i in order for word in groups[i]))
            assert (config.strategy, config.batch_size, config.layers) == ("darts", 7, 3)

    def test_a_later_file_overrules_an_earlier(self, tmp_path):
        one = write(tmp_path / "1.yaml", "seed: 1\nlayers: 4\n")
        two = write(tmp_path / "2.yaml", "seed: 2\n")
        config = config_of("--config", one, "--config", two)
        assert (config.seed, config.layers) == (2, 4)

    def test_flags_may_repeat_the_default_to_undo_a_file(self, tmp_path):
        file = write(tmp_path / "a.yaml", "knn: false\nimbalance_ratio: 50\n")
        config = config_of("--config", file, "--knn", "--imbalance-ratio", "null")
        assert (config.knn, config.imbalance_ratio) == (True, None)

    def test_epochs_undo_weaker_steps(self, tmp_path):
        file = write(tmp_path / "a.yaml", "steps: 60\n")
        assert config_of("--config", file).steps == 60
        config = config_of("--config", file, "--epochs", "3")
        assert (config.epochs, config.steps) == (3, None)

    def test_the_default_preset_applies_unless_something_else_is_named(self, tmp_path):
        quick = preset_values(SearchConfig, "quick", "search")
        file = write(tmp_path / "a.yaml", "seed: 1\n")
        for words, applies in (
            ([], True),
            (["--seed", "1"], True),
            (["--preset", "darts"], False),
            (["--dataset", "cifar10"], False),
            (["--config", file], False),
        ):
            config = config_of(*words, default_preset="quick")
            assert (config.steps == quick["steps"]) is applies, words


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("# mine\n\nepoch: 3\n", ["line 3", "unknown key epoch", "did you mean epochs?"]),
            ("xyzzy: 3\n", ["unknown key xyzzy"]),
            ("epochs: ten\n", ["epochs: ten", "a whole number, at least 1"]),
            ("epochs: 3.0\n", ["epochs: 3.0", "a whole number"]),
            ("epochs: true\n", ["epochs: True", "a whole number"]),
            ("epochs: null\n", ["epochs: None", "a whole number"]),
            ("epochs: [1]\n", ["epochs: [1]", "a whole number"]),
            ("w01: .nan\n", ["w01: nan", "a number"]),
            ("w01: .inf\n", ["w01: inf", "a number"]),
            ("knn: 1\n", ["knn: 1", "true or false"]),
            ("dataset: 10\n", ["dataset: 10", "in quotes"]),
            ("operations: a\n", ["operations: a", "a list"]),
            ("projector: [1, two]\n", ["projector: two", "a whole number"]),
            ("strategy: dart\n", ["strategy: dart", "did you mean darts?"]),
            ("batch-size: 3\nbatch_size: 4\n", ["line 2", "batch_size stands there twice"]),
            ("seed: 1\nseed: 2\n", ["line 2", "second time"]),
            ("seed: 1\n  epochs: [\n", ["line", "not valid YAML"]),
            ("seed: 1\nepochs: {\n", ["line 3", "not valid YAML"]),
            ("seed: !!python/object/apply:os.system [ls]\n", ["line 1", "not valid YAML"]),
            ("seed: \x01\n", ["line 1", "not valid YAML"]),
            ("- 1\n", ["holds a list"]),
            ("1: 2\n", ["line 1", "key 1 is not a name"]),
            ("? [a]\n: 2\n", ["line 1"]),
            ("[" * 5000, ["nested too deeply"]),
            ("command: retrain\n", ["is for retrain", "give one for search"]),
        ],
    )
    def test_problems_name_the_file_and_the_key_or_line(self, tmp_path, text, parts):
        file = write(tmp_path / "my.yaml", text)
        problem = problem_of("--config", file)
        for part in [file, *parts]:
            assert part in problem

    def test_files_that_cannot_be_read(self, tmp_path):
        assert "No such file" in problem_of("--config", str(tmp_path / "none.yaml"))
        assert "directory" in problem_of("--config", str(tmp_path))
        (tmp_path / "b.yaml").write_bytes(b"seed: \xff\n")
        assert "UTF-8" in problem_of("--config", str(tmp_path / "b.yaml"))

    def test_numbers_and_texts_are_those_of_yaml_1_2(self, tmp_path):
        file = write(tmp_path / "a.yaml", "weight_lr: 3e-4\ndataset: no\nout: 2024-01-01\nw01: 3\n")
        config = config_of("--config", file)
        assert (config.weight_lr, config.dataset, config.out) == (3e-4, "no", "2024-01-01")
        assert type(config.w01) is float

    def test_dashes_in_keys(self, tmp_path):
        assert config_of("--config", write(tmp_path / "a.yaml", "batch-size: 3")).batch_size == 3

    def test_the_config_of_a_run_is_a_config_file(self, tmp_path):
        config = SearchConfig(seed=5, layers=4)
        with RunDirectory.create(tmp_path / "run", command="search") as run:
            run.write_config(config, {"torch": "2.11"})
        assert config_of("--config", str(tmp_path / "run" / "config.yaml")) == config


class TestPresets:
    def test_every_preset_parses_for_its_command(self):
        by_command = {command: preset_names(command) for command in CONFIGS}
        assert sorted(name for names in by_command.values() for name in names) == preset_names()
        for command, names in by_command.items():
            for name in names:
                assert config_of("--preset", name, command=command) is not None
        assert {"darts", "fairdarts", "quick", "small", "ssfnas"} <= set(by_command["search"])
        assert by_command["retrain"] == [
            *("darts-retrain", "longtail", "retrain-quick", "retrain-small")
        ]

    def test_unknown_names_list_the_known(self):
        problem = problem_of("--preset", "dart")
        assert "did you mean darts?" in problem
        assert f"search has {', '.join(preset_names('search'))}" in problem

    def test_names_are_not_paths(self):
        assert "no such preset" in problem_of("--preset", "../presets/darts")

    def test_a_preset_of_another_command(self):
        assert "is for retrain" in problem_of("--preset", "longtail")
        assert "derive has no presets" in problem_of("--preset", "darts", command="derive")

    def test_the_papers_numbers(self):
        darts, fair = config_of("--preset", "darts"), config_of("--preset", "fairdarts")
        assert (darts.batch_size, fair.batch_size) == (64, 128)
        assert (darts.weight_lr, fair.weight_lr) == (0.025, 0.005)
        assert (darts.alpha_lr, fair.alpha_lr) == (3e-4, 3e-3)
        assert (darts.alpha_beta1, fair.alpha_beta1) == (0.5, 0.9)
        for config in (darts, fair):
            assert (config.epochs, config.weight_lr_min, config.weight_decay) == (50, 0.001, 3e-4)
            assert (config.clip, config.alpha_weight_decay, config.weight_momentum) == (
                5,
                1e-3,
                0.9,
            )
            assert (config.objective, config.order) == ("supervised", 1)
        assert (darts.derive, fair.derive, fair.threshold, fair.w01) == (
            "darts",
            "threshold",
            0.85,
            10,
        )

    def test_ssfnas_is_fairdarts_with_barlow_twins_on_long_tailed_data(self):
        ssfnas, fair = (
            dataclasses.asdict(config_of("--preset", name)) for name in ("ssfnas", "fairdarts")
        )
        differing = {name for name in ssfnas if ssfnas[name] != fair[name]}
        assert differing == {"objective", "imbalance_ratio"}
        assert (ssfnas["objective"], ssfnas["imbalance_ratio"]) == ("ssl", 100)


class TestWordsWithoutAFlag:
    """What a prediction is about needs none."""

    RUN = ("--run", "r")

    def predict(self, *words: str) -> Any:
        return config_of(*words, *self.RUN, command="predict")

    def test_they_may_stand_anywhere_and_stay_as_they_are(self):
        config = self.predict("a, b.jpg", "--top-k", "3", " c.png", "d_e.npz")
        assert config.images == ["a, b.jpg", " c.png", "d_e.npz"]
        assert config.top_k == 3

    def test_behind_two_dashes_every_word_is_one(self):
        config = config_of(*self.RUN, "a.jpg", "--", "--top_k", "-1.jpg", "--", command="predict")
        assert config.images == ["a.jpg", "--top_k", "-1.jpg", "--"]
        assert config.top_k == 1

    def test_names_that_are_no_text_are_kept(self):
        assert self.predict("a\udcff.jpg").images == ["a\udcff.jpg"]

    @pytest.mark.parametrize(
        ("words", "page", "images"),
        [
            (["--report", "a.jpg"], "auto", ["a.jpg"]),
            (["a.jpg", "--report"], "auto", ["a.jpg"]),
            (["--report", "my.html", "a.jpg"], "my.html", ["a.jpg"]),
            (["--report=my.HTML", "a.jpg"], "my.HTML", ["a.jpg"]),
            (["--report", "--", "my.html"], "auto", ["my.html"]),
        ],
        ids=str,
    )
    def test_a_flag_that_may_stand_alone_takes_only_what_ends_as_its_value(
        self, words, page, images
    ):
        config = config_of(*self.RUN, *words, command="predict")
        assert (config.report, config.images) == (page, images)

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ([], "IMAGES is missing"),
            (["a.jpg", "--topk", "3"], "--topk (did you mean --top-k?)"),
            (["", "a.jpg"], "IMAGES: ''"),
            (["a.jpg", "--out", "a.txt"], "ends in .csv or .json"),
            (["a.jpg", "--report=a.txt"], "ends in .html"),
        ],
        ids=str,
    )
    def test_wrong_ones(self, words, expected):
        assert expected in problem_of(*self.RUN, *words, command="predict")

    def test_they_are_a_key_of_a_file(self, tmp_path):
        file = write(tmp_path / "a.yaml", "images: [x.jpg, 'y, z.jpg']\nrun: r\n")
        assert config_of("--config", file, command="predict").images == ["x.jpg", "y, z.jpg"]

    def test_other_commands_take_none(self):
        assert "unexpected argument a.jpg" in problem_of("a.jpg")


class TestPrinting:
    @pytest.mark.parametrize("command", CONFIGS)
    def test_help_shows_every_flag_and_its_help(self, command, capsys):
        with pytest.raises(SystemExit) as caught:
            config_of("--help", command=command)
        assert caught.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for entry in option_values(CONFIGS[command]).values():
            assert f"{entry.flag} " in text
            assert "_" not in entry.name or f"--{entry.name}" not in text
        assert "%%" not in text

    def test_print_config_reads_back_as_the_same_config(self, capsys, tmp_path):
        words = ["--preset", "quick", "--layers", "5", "--out", "a: b # c", "--operations", "x,y"]
        with pytest.raises(SystemExit) as caught:
            config_of(*words, "--print-config")
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert yaml.safe_load(text)["command"] == "search"
        file = write(tmp_path / "a.yaml", text)
        assert config_of("--config", file) == config_of(*words)

    def test_print_config_refuses_what_the_command_would_refuse(self):
        assert "--epochs" in problem_of("--print-config", "--epochs", "0")


class TestResume:
    @pytest.fixture
    def run(self, tmp_path):
        config = SearchConfig(seed=5, layers=4, steps=20, out=str(tmp_path / "old"))
        with RunDirectory.create(tmp_path / "run", command="search") as run:
            run.write_config(config, {"torch": "2.11"})
        return str(tmp_path / "run")

    def test_takes_the_values_of_the_run(self, run):
        config = config_of("--out", run, "--resume", default_preset="quick")
        assert config == SearchConfig(seed=5, layers=4, steps=20, out=run, resume=True)

    def test_takes_the_line_that_started_it(self, run):
        config = config_of("--out", run, "--seed", "5", "--steps", "20", "--resume")
        assert (config.seed, config.resume) == (5, True)

    def test_what_does_not_change_the_result_may_differ(self, run):
        config = config_of("--out", run, "--resume", "--workers", "0", "--device", "cpu")
        assert (config.workers, config.device) == (0, "cpu")

    @pytest.mark.parametrize(
        ("words", "part"),
        [
            (["--layers", "3"], "--layers 3 differs from the run that is resumed, which has 4"),
            (["--preset", "darts"], "differs from the run"),
            (["--epochs", "3"], "--epochs 3 differs"),
        ],
    )
    def test_anything_else_may_not(self, run, words, part):
        assert part in problem_of("--out", run, "--resume", *words)

    def test_without_a_run(self, run, tmp_path):
        assert "--resume needs --out" in problem_of("--resume")
        assert "nothing to resume" in problem_of("--resume", "--out", str(tmp_path / "none"))
        assert "holds a run of search" in problem_of("--resume", "--out", run, command="retrain")


class TestPlugins:
    def test_names_that_plugins_may_register_are_left_to_the_registries(self, tmp_path):
        config = config_of("--strategy", "mine", "--plugins", "a.py", "--alpha-lr", "0.1")
        assert (config.strategy, config.plugins) == ("mine", ["a.py"])
        file = write(tmp_path / "a.yaml", "plugins: [a.py]\nobjective: mine\n")
        assert config_of("--config", file, "--strategy", "other").strategy == "other"

    @pytest.mark.parametrize(
        ("flag", "last"),
        [("--strategy", "random"), ("--early-stop", "hessian"), ("--supernet", "reference")],
    )
    def test_a_name_that_is_not_known_may_be_one_of_theirs(self, flag, last):
        for words in ([flag, "mine"], [flag]):
            problem = problem_of(*words)
            assert f" or {last}, or one of --plugins FILE.py" in problem
        assert "--plugins" not in problem_of("--zero-one", "mine")

    def test_other_choices_stay_closed(self):
        assert "--profile x" in problem_of("--profile", "x", "--plugins", "a.py")


UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Everything that might come out of a shell: real flags, near misses, good and bad values.
_FLAGS = sorted(option.flag for option in option_values(SearchConfig).values())
_words = st.one_of(
    st.sampled_from(_FLAGS),
    st.sampled_from(
        ["--no-knn", "--preset", "--config", "darts", "true", "ssl", "random", "joint"]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=8),
    st.sampled_from(_FLAGS).flatmap(lambda flag: st.text(max_size=6).map(lambda t: f"{flag}={t}")),
    st.lists(st.integers(-3, 3000)).map(str),
)


@settings(UNHURRIED, max_examples=150)
@example(words=["--config", "\x00"])
@example(words=["--plugins=\x00"])
@given(words=st.lists(_words, max_size=5).filter(lambda ws: not {"-h", "--help"} & set(ws)))
@example(words=["--out", "\udcff"])
@example(words=["--out", "null"])
@example(words=["--operations", "[", "]"])
def test_any_command_line_parses_or_is_a_request_error(words, capsys):
    try:
        config = config_of(*words)
    except RequestError:
        return
    with pytest.raises(SystemExit):
        config_of(*words, "--print-config")
    values = parse_yaml(capsys.readouterr().out, "printed")
    values.pop("command")
    assert SearchConfig(**values) == config
    assert all(type(values[k]) is type(v) for k, v in dataclasses.asdict(config).items())


_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
_keys = st.one_of(st.sampled_from([f[2:] for f in _FLAGS if f != "--resume"]), st.text(max_size=6))


@settings(UNHURRIED, max_examples=150)
@given(values=st.dictionaries(_keys, _values, max_size=4))
def test_any_yaml_parses_or_is_a_request_error(values, tmp_path):
    file = tmp_path / "any.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    try:
        config = config_of("--config", str(file))
    except RequestError:
        return
    for key, value in values.items():
        assert getattr(config, key.replace("-", "_")) == value


@settings(UNHURRIED, max_examples=100)
@given(data=st.binary(max_size=40))
def test_any_bytes_parse_or_are_a_request_error(data, tmp_path):
    file = tmp_path / "any.yaml"
    file.write_bytes(data)
    try:
        config = config_of("--config", str(file))
    except RequestError:
        return
    assert isinstance(config, SearchConfig)


@dataclasses.dataclass(kw_only=True)
class TinyConfig:
    number: int = option(1, "a number", minimum=0)


def run_main(action, argv=()):
    return main(TinyConfig, action, prog="ssfnas.tiny", description="", argv=list(argv))


def raising(error: BaseException):
    def action(config: TinyConfig) -> None:
        raise error

    return action


class TestMain:
    def test_the_exit_code_is_what_run_returns(self):
        assert run_main(lambda config: None) == 0
        assert run_main(lambda config: config.number, ["--number", "7"]) == 7

    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (RequestError("bad\nthing"), 2, "error: bad thing"),
            (NumericalError("loss is nan"), 1, "error: loss is nan"),
            (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, "/x: No space left"),
            (OSError(errno.EROFS, "Read-only file system", "/x"), 2, "/x: Read-only"),
            (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "/x: Permission denied"),
            (Interrupted(2, "state saved"), 130, "interrupted: state saved"),
            (Interrupted(15, "state saved"), 143, "interrupted: state saved"),
            (KeyboardInterrupt(), 130, "interrupted: stopped"),
            (RequestError("a\x1b[31mb"), 2, "error: a\\x1b[31mb"),
        ],
    )
    def test_expected_ends_are_one_line(self, error, code, words, capsys):
        assert run_main(raising(error)) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("ssfnas.tiny: ")
        assert captured.err.count("\n") == 1
        assert words in captured.err

    @pytest.mark.parametrize(
        "error", [RuntimeError("x"), OSError(errno.EIO, "x"), KeyError("x"), ValueError("x")]
    )
    def test_faults_of_the_program_keep_their_traceback(self, error):
        with pytest.raises(type(error)):
            run_main(raising(error))

    def test_out_of_memory(self, capsys):
        import torch

        assert run_main(raising(torch.OutOfMemoryError("CUDA out of memory. Tried\nto"))) == 1
        assert "smaller --batch-size" in capsys.readouterr().err

    def test_warnings_are_one_line(self, capsys):
        def warn(config: TinyConfig) -> None:
            warnings.warn("take\ncare", stacklevel=1)

        assert run_main(warn) == 0
        assert capsys.readouterr().err == "ssfnas.tiny: warning: take care\n"

    def test_other_ranks_say_who_they_are(self, capsys, monkeypatch):
        monkeypatch.setenv("RANK", "3")
        run_main(raising(RequestError("bad")))
        assert capsys.readouterr().err == "ssfnas.tiny[rank 3]: error: bad\n"

    def test_in_a_process_of_its_own(self, tmp_path):
        program = tmp_path / "tiny.py"
        program.write_text(
            "import sys\n"
            "from ssfnas.commandline import main\n"
            "from ssfnas.config import SearchConfig\n"
            "sys.exit(main(SearchConfig, print, prog='ssfnas.search', description='',"
            " default_preset='quick'))\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

        def call(*words: str) -> subprocess.CompletedProcess:
            return subprocess.run(
                [sys.executable, program, *words], capture_output=True, text=True, env=environment
            )

        bad = call("--mu", "3")
        assert (bad.returncode, bad.stdout) == (2, "")
        assert bad.stderr == (
            "ssfnas.search: error: --mu has no effect with --objective ssl: leave it out or use "
            "--objective joint\n"
        )
        good = call("--print-config", "--seed", "3")
        assert (good.returncode, good.stderr) == (0, "")
        assert parse_yaml(good.stdout, "")["layers"] == 4
