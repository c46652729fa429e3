"""The one loop of every kind of training: steps, epochs, checkpoints, interruption."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from ssfnas.errors import NumericalError, RequestError
from ssfnas.evaluation.measure_names import told
from ssfnas.runs.checkpoints import CheckpointStore
from ssfnas.runs.runlog import RunLog
from ssfnas.runtime.distributed import World
from ssfnas.runtime.interruption import AFTER_THE_LOOP, IN_THE_LOOP, Interruption
from ssfnas.runtime.memory import settled_objects
from ssfnas.runtime.progress import Progress
from ssfnas.training.trainer import Trainer


def resume(trainer: Trainer, store: CheckpointStore, log: RunLog | None) -> bool:
    """Load the latest good checkpoint, and cut the logs back to it; whether there was one.

    Raises:
        RequestError: it holds the state of another training than this one; the logs are untouched.
    """
    found = store.latest()
    if found is None:
        if log is not None:
            log.cut_back(0)
        return False
    step, state = found
    try:
        trainer.load_state_dict(state)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2]) or type(error).__name__
        raise RequestError(
            f"the checkpoint of step {step:,} in {store.folder} does not fit this training, as "
            f"where another version of the package wrote it ({reason}): start the run again with "
            "--overwrite"
        ) from error
    if log is not None:
        log.cut_back(step)
    return True


def train(
    trainer: Trainer,
    *,
    store: CheckpointStore,
    log: RunLog | None,
    world: World,
    interruption: Interruption,
    checkpoint_minutes: float,
    title: str,
) -> bool:
    """Run ``trainer`` to its end; whether it got there (else it was interrupted, state saved).

    Args:
        trainer: what to run; its state is already loaded when resuming.
        store: where checkpoints go; only the main process writes.
        log: metrics of the run; None on processes that do not write.
        world: the processes that run this loop together.
        interruption: asked after each step whether to stop.
        checkpoint_minutes: longest time between two checkpoints.
        title: what the progress bar shows.

    Raises:
        NumericalError: a term is not finite; the message adds the step, what made it so where the
            trainer knows, and the last checkpoint.
    """
    ask_every = 1 if world.device.type == "cpu" or world.size == 1 else 10
    last_saved = time.monotonic()

    def save() -> None:
        nonlocal last_saved
        if world.is_main:
            store.save(trainer.step, trainer.state_dict())
        last_saved = time.monotonic()

    def explained(error: NumericalError, step: int) -> NumericalError:
        kept = store.files()[0][1].name
        told = "".join(f"{part}; " for part in (error, trainer.not_finite()) if part)
        return NumericalError(f"step {step}: {told}the last good checkpoint is {kept}")

    latest: dict[str, Any] = {}

    def current() -> list[str]:
        return _told(trainer, {**latest, **trainer.progress_values()})

    if trainer.step == 0:
        save()
    with (
        settled_objects(),
        Progress(
            trainer.total_steps, title=title, start=trainer.step, enabled=world.is_main
        ) as bar,
    ):
        interruption.outlook, interruption.show = IN_THE_LOOP, bar.notice
        while not trainer.finished:
            before = trainer.step
            try:
                trainer.run_step()
            except NumericalError as error:
                raise explained(error, before + 1) from None
            bar.update(trainer.step, trainer.stage, current)
            ended = trainer.epoch_ended
            if ended:
                values = trainer.end_epoch()
                latest |= values
                of_epoch = _told(trainer, {**trainer.progress_values(), **values})
                if log is not None:
                    log.log(trainer.step, trainer.epoch, **values)
                    log.message("  ".join([trainer.stage, *of_epoch]), show=False)
                bar.update(trainer.step, trainer.stage, current, now=True)
            due = int(time.monotonic() - last_saved > 60 * checkpoint_minutes)
            signal = interruption.signal or 0
            if world.size > 1 and (ended or trainer.step % ask_every == 0):
                signal, due = world.largest(signal, due)
            elif world.size > 1:
                signal = due = 0
            if ended or due or signal:
                try:
                    save()
                except NumericalError as error:
                    raise explained(error, trainer.step) from None
            if signal:
                # All end with one exit code, whichever of them was interrupted.
                interruption.signal = signal
                return False
        interruption.outlook, interruption.show = AFTER_THE_LOOP, None
    return True


def _told(trainer: Trainer, values: Mapping[str, Any]) -> list[str]:
    """What people watch, by the names that it has in reports."""
    return [told(key, values[key]) for key in trainer.headlines if key in values]
