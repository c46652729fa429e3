"""Selection by perturbation of a finished search, as ``derive`` asks for it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssfnas.config import DeriveConfig, SearchConfig
from ssfnas.data import load_data
from ssfnas.declarations.objectives import OBJECTIVES
from ssfnas.errors import RequestError
from ssfnas.evaluation.measure_names import named
from ssfnas.pipeline.run import Run
from ssfnas.runs.checkpoints import CheckpointStore
from ssfnas.runs.data_card import DataCard
from ssfnas.runs.run_directory import CHECKPOINT_FOLDER, PERTURBATION_FILE, RunDirectory
from ssfnas.runs.run_files import json_object
from ssfnas.runtime.distributed import World, choose_device
from ssfnas.runtime.interruption import Interruption
from ssfnas.runtime.memory import kept_memory
from ssfnas.runtime.precision import check_precision
from ssfnas.runtime.progress import Progress
from ssfnas.runtime.threads import computing_threads
from ssfnas.spaces import Genotype
from ssfnas.strategies.derivation import derive
from ssfnas.strategies.perturbation import PerturbationSelection
from ssfnas.training.loop import resume
from ssfnas.training.search_trainer import SearchTrainer
from ssfnas.training.supernet_measure import SupernetMeasure

_STOPPING = "stopping after this measurement, with its state saved"


def perturbation_settings(run: Run, config: DeriveConfig) -> dict[str, Any]:
    """What of a request decides the result, with what was left to choose.

    Raises:
        RequestError: the search cannot be measured so, or what is asked for has no meaning here.
    """
    if run.config.plugins and not config.plugins:
        # What a run's folder names is not executed unasked.
        raise RequestError(
            f"--derive perturbation measures the supernet of --run {run.path}, which needs the "
            f"code that it was searched with: add {shlex.join(['--plugins', *run.config.plugins])}"
        )
    if config.epoch is not None:
        raise RequestError(
            "--epoch has no effect with --derive perturbation, which measures the supernet as the "
            "search left it: leave it out"
        )
    if config.max_skips is not None:
        raise RequestError(
            "--max-skips has no effect with --derive perturbation, which reads no weights: leave "
            "it out"
        )
    objective = str(run.config.objective)
    if not OBJECTIVES.get(objective).trains_logits:
        without = f"--objective {objective} trained no classifier"
    else:
        without = "its images have several labels each" if run.data_card.multi_label else ""
    if without and config.measure == "balanced_accuracy":
        raise RequestError(
            f"--measure balanced_accuracy of {run.path}: {without}: use --measure loss"
        )
    kind = config.measure or ("loss" if without else "balanced_accuracy")
    return {"measure": kind, "measure_images": config.measure_images}


def select_by_perturbation(
    run: Run, config: DeriveConfig, settings: dict[str, Any], folder: Path
) -> Genotype:
    """What is left of the supernet where all that it misses least is taken away.

    Args:
        run: the finished search, with its last checkpoint.
        config: where to compute.
        settings: see :func:`perturbation_settings`.
        folder: where measurements are kept, from which the same request goes on.

    Raises:
        RequestError: the run has no checkpoint, its data have changed, or what ``folder`` holds
            does not fit.
        Interrupted: a signal came; the state is saved.
    """
    with Interruption() as interruption, _supernet(run, config) as trainer:
        measure = SupernetMeasure(trainer, settings["measure"], settings["measure_images"])
        selection = PerturbationSelection(
            measure.tables,
            trainer.operations,
            seed=trainer.config.seed,
            is_open=trainer.strategy.open,
        )
        directory = _folder(folder, run)
        _go_on(selection, folder / PERTURBATION_FILE)
        print(
            f"measured by  {named(settings['measure'])} on {measure.images:,} images; "
            f"{selection.total:,} measurements, {selection.done:,} of them are there"
        )
        with Progress(
            selection.total, title="derive", unit="measurement", start=selection.done
        ) as bar:
            interruption.outlook, interruption.show = _STOPPING, bar.notice
            while not selection.finished:
                decided = selection.decided
                selection.step(measure)
                bar.update(selection.done)
                if selection.decided > decided or interruption.signal:
                    directory.write_json(PERTURBATION_FILE, selection.state_dict())
                if interruption.signal:
                    raise interruption.stop(
                        f"state saved after {selection.done:,} of {selection.total:,} "
                        "measurements: the same line goes on from there"
                    )
    # An edge that has no operation has no weight either, which a threshold keeps out.
    return derive(selection.tables, trainer.operations, "threshold", 0.5)


@contextmanager
def _supernet(run: Run, config: DeriveConfig) -> Iterator[SearchTrainer]:
    """The trainer of a search in the state of its last checkpoint, on this process alone."""
    store = CheckpointStore(run.path / CHECKPOINT_FOLDER)
    if not store.files():
        raise RequestError(
            f"--run {run.path} has kept no checkpoint ({CHECKPOINT_FOLDER}/), so its supernet "
            "cannot be measured: use another --derive, or search again"
        )
    device = choose_device(config.device)
    # No step is made: what only steps need is left out.
    without = {"cuda_graph": "off", "target_flops": None, "target_params": None, "target_ms": None}
    searched: SearchConfig = dataclasses.replace(run.config, **without)
    check_precision(searched.precision, device)
    with computing_threads(config.threads), kept_memory(device.type):
        data = dataclasses.replace(load_data(searched), workers=searched.workers)
        changed = run.data_card.difference(DataCard.of(data))
        if changed is not None:
            raise RequestError(
                f"the data set has changed since {run.path} began ({changed}): bring back what it "
                "was, or use another --derive"
            )
        trainer = SearchTrainer(searched, data.to(device), World(0, 1, device))
        try:
            resume(trainer, store, None)
            yield trainer
        finally:
            trainer.close()


def _folder(folder: Path, run: Run) -> RunDirectory:
    folder.mkdir(parents=True, exist_ok=True)
    return RunDirectory(folder, run.command)


def _go_on(selection: PerturbationSelection, file: Path) -> None:
    """Take the measurements that are there already."""
    if not file.exists():
        return
    try:
        selection.load_state_dict(json_object(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RequestError(f"{file}: {error}") from None
