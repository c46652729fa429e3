"""A whole search as a run: directory, checkpoints, logs, genotype, pictures, report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssfnas.config import DeriveConfig, SearchConfig
from ssfnas.data import ImageData
from ssfnas.errors import RequestError, found_everywhere
from ssfnas.layers.operations import check_operations
from ssfnas.objectives import OBJECTIVES
from ssfnas.pictures import draw_cell, report_html
from ssfnas.pictures.numbers import duration
from ssfnas.pictures.series import elapsed
from ssfnas.pictures.style import save_figure
from ssfnas.pipeline.advice import following_lines, is_worth_measuring
from ssfnas.pipeline.dry_run import predict
from ssfnas.pipeline.fitting import fit_search
from ssfnas.pipeline.run import Run
from ssfnas.pipeline.session import Session, open_session, run_training
from ssfnas.runs.data_card import DataCard
from ssfnas.runs.next_commands import derive_command
from ssfnas.runs.run_directory import RunDirectory
from ssfnas.runs.run_files import RunFiles
from ssfnas.runtime.distributed import World
from ssfnas.runtime.precision import what_bf16_gains
from ssfnas.spaces import SUPERNETS, Genotype, count_parameters
from ssfnas.strategies import DERIVATIONS, STOPPERS, STRATEGIES
from ssfnas.strategies.costs import cost_target
from ssfnas.training.graphed_step import how_launched, why_not_graphed
from ssfnas.training.random_trainer import RandomSearchTrainer
from ssfnas.training.search_trainer import SearchTrainer

SAMPLE_NOTE = """\
This is the sample that ships with the package: it shows the pipeline, not an architecture to keep.
The full thing, on CIFAR10-LT (downloads CIFAR-10, wants a GPU):
    python -m ssfnas.search --preset ssfnas --out runs/ssfnas
On images of your own, in folders named as their classes, a quarter to half an hour on a CPU:
    python -m ssfnas.search --dataset FOLDER --image-size 80 --out runs/mine
"""

LARGEST_SEARCHED = 80
"""Pixels a side at which larger images are searched unless a size is asked for.

The stem halves them, so that cells see 40 x 40. At the usual batch of 128 with two views a step
takes about 13 GiB, and at 64 pixels, which the stem leaves as they are, 32.
"""


def run_search(config: SearchConfig) -> Run | None:
    """Search, and write everything that a search leaves behind.

    Args:
        config: see :class:`~ssfnas.config.SearchConfig`; ``out`` is filled in where it is None.

    Returns:
        The run; None with ``dry_run``, which writes nothing.

    Raises:
        RequestError: the request is wrong, and nothing was written; or no operation of a cell
            passes the threshold, and everything but the genotype was.
        NumericalError: a loss became NaN or infinite.
        Interrupted: a signal came; the state is saved.
    """
    with open_session(
        config,
        lambda: _check(config),
        lambda world: _check_place(config, world),
        largest_image=LARGEST_SEARCHED,
    ) as session:
        strategy = STRATEGIES.get(config.strategy)

        def make(
            changed: SearchConfig, data: ImageData = session.data
        ) -> SearchTrainer | RandomSearchTrainer:
            kind = SearchTrainer if strategy.trains_alphas else RandomSearchTrainer
            return kind(changed, data, session.world)

        if config.dataset == "cifar10-lt-mini":
            session.say(SAMPLE_NOTE)
        with found_everywhere():
            fitted = fit_search(config, session.data, session.world.size)
        session.say_data(fitted, "ssfnas")
        if session.data.original_size is not None:
            session.say(_resized(*session.data.original_size))
        if session.data.multi_label and strategy.trains_alphas and config.knn:
            session.say("neighbors    not measured: images have several labels each")
        if config.dry_run:
            session.say(_describe(make(config)))
            session.say(predict(make, config, session.data, session.world.size))
            return None
        if session.world.device.type == "cuda" and strategy.trains_alphas:
            session.say(how_launched(config, session.world))
        if gain := what_bf16_gains(config.precision, session.world.device):
            session.say(gain)
        searched, directory = run_training(session, "search", make)
        assert isinstance(searched, SearchTrainer | RandomSearchTrainer)
        if directory is None:
            with found_everywhere():
                searched.genotype()
            return Run(str(config.out))
        with directory:
            _finish(searched, directory, session)
        return Run(directory.path)


def _resized(height: int, width: int) -> str:
    """Says that images are searched smaller than they are, and how not to."""
    size = LARGEST_SEARCHED
    kept = f"--image-size {min(height, width)} takes "
    squares = height == width
    return (
        f"images of {width} x {height} are searched at {size} x {size}"
        + ("" if squares else ", the middle square of each")
        + f": {kept}{'them as they are' if squares else 'that square as it is'}"
    )


def _check(config: SearchConfig) -> None:
    """Refuse what would fail after hours as well as what would fail at once."""
    strategy = STRATEGIES.get(config.strategy)
    objective = OBJECTIVES.get(config.objective)
    if strategy.trains_alphas:
        SUPERNETS.get(config.supernet)
        DERIVATIONS.get(config.derive)
        if config.early_stop != "none":
            STOPPERS.get(config.early_stop)
        cost_target(config)
        if config.order == 2 and config.precision == "fp16":
            raise RequestError(
                "--order 2 with --precision fp16: it takes differences of gradients, for which "
                "that is too coarse; use bf16 or fp32"
            )
        if config.order == 2 and strategy.first_order:
            asked = f"--order 2 with --strategy {config.strategy}"
            raise RequestError(f"{asked}: {strategy.first_order}; leave it at 1")
    check_operations(tuple(config.operations or strategy.operations))
    if not objective.compares_images:
        return
    if not config.projector:
        raise RequestError("--projector names no layer: give widths such as 2048,2048,2048")
    if config.batch_size < 2:
        raise RequestError(
            f"--batch-size {config.batch_size} with --objective {config.objective}, which compares "
            "images within a batch (Barlow Twins): it needs at least 2"
        )


def _check_place(config: SearchConfig, world: World) -> None:
    if STRATEGIES.get(config.strategy).trains_alphas:
        why_not_graphed(config, world)  # refuses what has to be and cannot


def _describe(trainer: SearchTrainer | RandomSearchTrainer) -> str:
    kind = "supernet" if isinstance(trainer, SearchTrainer) else "sampled network"
    head = sum(p.numel() for p in trainer.objective.parameters())
    lines = [f"{kind:<12} {count_parameters(trainer.net):,} parameters"]
    if head:
        lines.append(f"projector    {head:,} parameters")
    return "\n".join(lines)


def _finish(
    trainer: SearchTrainer | RandomSearchTrainer, directory: RunDirectory, session: Session
) -> None:
    problem: RequestError | None = None
    if isinstance(trainer, SearchTrainer):
        directory.write_npz("alphas.npz", alpha_arrays(trainer))
        if trainer.stopped_because is not None:
            session.say(f"stopped early: {trainer.stopped_because}")
    try:
        genotype = trainer.genotype()
    except RequestError as error:
        problem = error
    else:
        write_genotype(genotype, directory)
        if isinstance(trainer, SearchTrainer):
            last = len(trainer.history) - 1
            epoch = last if trainer.use_epoch is None else trainer.use_epoch
            write_derivation(directory, trainer.config, epoch)
        session.say(f"genotype     {directory.path / 'genotype.json'}\n{genotype.to_text()}")
    directory.write_text("report.html", report_html([directory.path]))
    session.say(f"report       {directory.path / 'report.html'}")
    files = RunFiles(directory.path)
    if (searched := elapsed(files.metrics, files.started)) is not None:
        session.say(f"time         {duration(searched)}")
    if problem is not None:
        raise RequestError(
            f"{problem}; the run is kept whole in {directory.path}: derive again with "
            f"{derive_command(trainer.config.plugins, directory.path, 'darts')}"
        )
    # A resumed search finds images at the size that it chose; what they were is in its first card.
    card, labels = DataCard.from_dict(files.data), None
    # Of several processes the others are not there to measure with.
    if session.world.size == 1 and is_worth_measuring(searched):
        labels = trainer.data.train.labels
    for line in following_lines(
        trainer.config,
        genotype,
        directory.path,
        card,
        labels,
        session.world.device,
        name=directory.path,
    ):
        session.say(line)


def write_genotype(genotype: Genotype, directory: RunDirectory) -> None:
    """``genotype.json`` and the pictures of both cells."""
    genotype.save(directory.path / "genotype.json")
    for cell in ("normal", "reduce"):
        figure = draw_cell(genotype, cell)
        for ending in ("svg", "png"):
            save_figure(figure, directory.path / f"genotype_{cell}.{ending}")


def write_derivation(
    directory: RunDirectory,
    config: SearchConfig | DeriveConfig,
    epoch: int,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """``derivation.json``: how the genotype beside it was read from the search after ``epoch``.

    ``settings`` are those of what reads no weights; None: the rule's own.
    """
    if settings is None:
        settings = DERIVATIONS.get(config.derive).settings(config)
    # A search's max_skips is another option: it stops the search.
    limits = (
        {}
        if isinstance(config, SearchConfig)
        else {
            "max_skip_connections": config.max_skips,
            "max_params": config.max_params,
            "max_flops": config.max_flops,
        }
    )
    directory.write_json(
        "derivation.json",
        {
            "derive": config.derive,
            **settings,
            "epoch": epoch,
            **{name: most for name, most in limits.items() if most is not None},
        },
    )


def alpha_arrays(trainer: SearchTrainer) -> dict[str, Any]:
    """What ``alphas.npz`` holds: alphas and weights after each epoch, row 0 before the first."""
    arrays: dict[str, Any] = {"operations": np.array(trainer.operations)}
    last = len(trainer.history) - 1
    arrays["use_epoch"] = np.array(last if trainer.use_epoch is None else trainer.use_epoch)
    for name in trainer.history[0]:
        arrays[name] = np.stack([record[name].numpy() for record in trainer.history])
    return arrays
