"""What every run does before its first step and after its last: processes, data, directory."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ssfnas.config import DataOptions, RetrainConfig, SearchConfig, check_values, origin_of
from ssfnas.data import ImageData, load_data
from ssfnas.errors import RequestError, found_everywhere
from ssfnas.options import check_multi_label, option_values
from ssfnas.pipeline.memory_check import check_memory
from ssfnas.pipeline.samples import sample_arrays
from ssfnas.plugins import import_plugins
from ssfnas.runs.checkpoints import CheckpointStore
from ssfnas.runs.data_card import DataCard
from ssfnas.runs.next_commands import resume_command
from ssfnas.runs.run_directory import CHECKPOINT_FOLDER, RunDirectory
from ssfnas.runs.run_files import SAMPLES_FILE, RunFiles
from ssfnas.runs.runlog import RunLog
from ssfnas.runtime.determinism import (
    computing_place,
    make_deterministic,
    warn_of_another_place,
)
from ssfnas.runtime.distributed import World, number_of_processes, start_world
from ssfnas.runtime.environment import environment
from ssfnas.runtime.interruption import Interrupted, Interruption
from ssfnas.runtime.memory import kept_memory
from ssfnas.runtime.threads import computing_threads
from ssfnas.training.loop import resume, train
from ssfnas.training.trainer import Trainer

MakeTrainer = Callable[[Any], Trainer]


@dataclasses.dataclass
class Session:
    """One process' part in a run.

    Attributes:
        config: the run's.
        world: the processes that run together.
        data: the images, on the device where they fit.
        interruption: signals that came since the start.
        log: of the run, once it has a directory.
        said: what was said before it had one.
    """

    config: SearchConfig | RetrainConfig
    world: World
    data: ImageData
    interruption: Interruption
    log: RunLog | None = None
    said: list[str] = dataclasses.field(default_factory=list)

    def say(self, text: str) -> None:
        """Print a line and keep it in the run's log, on the main process alone."""
        if not self.world.is_main:
            return
        if self.log is not None:
            self.log.message(text)
        else:
            self.said.append(text)
            print(text, flush=True)

    def say_data(self, fitted: Iterable[str], full: str) -> None:
        """Say what the data are, and what was decided for them that nobody asked for.

        Args:
            fitted: lines of :mod:`~ssfnas.pipeline.fitting`.
            full: the preset that could be asked for where a smaller one was taken.
        """
        self.say(self.data.summary())
        if (preset := origin_of(self.config).preset) is not None:
            self.say(
                f"preset       {preset}, which suits a CPU; the full one, for a GPU or much time, "
                f"is --preset {full}"
            )
        for line in fitted:
            self.say(line)

    def keep_log(self, log: RunLog) -> None:
        """Say to ``log`` too from now on, and what was said before."""
        self.log = log
        for text in self.said:
            log.message(text, show=False)
        self.said.clear()


@contextmanager
def open_session(
    config: SearchConfig | RetrainConfig,
    check: Callable[[], None],
    check_place: Callable[[World], object],
    *,
    largest_image: int | None = None,
) -> Iterator[Session]:
    """Import plugins, check the values and the request, start the processes, load the data.

    Args:
        config: the run's.
        check: says what is wrong with the request, as far as that can be seen without data; called
            when the plugins' names are registered.
        check_place: says what of it cannot be done on these processes and this device; called
            before data are loaded, which may take long.
        largest_image: where the config has no image size, images that are larger are resized to
            this many pixels a side, which the config then says.

    Raises:
        RequestError: something of it is wrong; nothing has been written.
    """
    # Before the processes meet: one that leaves would be missed by the others.
    with found_everywhere():
        import_plugins(config.plugins)
        check_values(config)
        check()
        _check_shares(config)
    if config.deterministic:
        make_deterministic()
    with computing_threads(config.threads), Interruption() as interruption:
        world = start_world(config.device)
        try:
            with found_everywhere():
                check_place(world)
            data = shared_load(config, world, largest_image, preview=config.dry_run)
            data = dataclasses.replace(data, workers=config.workers)
            if data.original_size is not None:
                config.image_size = largest_image
            if data.multi_label:
                with found_everywhere():
                    check_multi_label(config, option_values(type(config), extended=True))
            with kept_memory(world.device.type):
                yield Session(config, world, data.to(world.device), interruption)
        finally:
            world.close()


def _check_shares(config: SearchConfig | RetrainConfig) -> None:
    processes = number_of_processes()
    if config.batch_size % processes:
        raise RequestError(
            f"--batch-size {config.batch_size} cannot be shared by {processes} processes: "
            f"use a multiple of {processes}"
        )


def shared_load(
    options: DataOptions, world: World, largest: int | None = None, *, preview: bool = False
) -> ImageData:
    """Load the data on the main process first, so that only one downloads.

    What fails there fails everywhere. See :func:`ssfnas.data.load_data`.
    """
    load = partial(load_data, options, largest=largest, preview=preview)
    data, problem = None, ""
    if world.is_main:
        try:
            data = load()
        except RequestError as error:
            problem = str(error)
    share_problem(world, problem)
    return load() if data is None else data


def share_problem(world: World, problem: str) -> None:
    """Raise the main process' ``problem``, where it has one, on every process."""
    problem = world.broadcast(problem)
    if problem:
        with found_everywhere():
            raise RequestError(problem)


def run_training(
    session: Session, command: str, make_trainer: MakeTrainer
) -> tuple[Trainer, RunDirectory | None]:
    """Create or reopen the run directory, build or resume the trainer, and train to the end.

    Args:
        session: the process' part in the run.
        command: ``"search"`` or ``"retrain"``.
        make_trainer: config -> trainer.

    Returns:
        The trainer at its end, and on the main process the run directory, still locked.

    Raises:
        RequestError: the directory cannot be used, or the data cannot be trained on.
        Interrupted: a signal came; the state is saved.
    """
    config, world = session.config, session.world
    # Built first: whatever is wrong with the request is found before anything is written.
    with found_everywhere():
        trainer = make_trainer(config)
        check_memory(trainer, session.say)
    directory: RunDirectory | None = None
    problem = ""
    if world.is_main:
        try:
            directory = RunDirectory.create(
                config.out, command=command, resume=config.resume, overwrite=config.overwrite
            )
            if config.resume:
                _check_unchanged(directory, session.data)
        except RequestError as error:
            problem = str(error)
            if directory is not None:
                directory.close()
    share_problem(world, problem)
    path = world.broadcast(str(directory.path) if directory else "")
    config.out = path
    store = CheckpointStore(Path(path) / CHECKPOINT_FOLDER)
    log: RunLog | None = None
    if directory is not None:
        if config.resume:
            files = RunFiles(path)
            warn_of_another_place(files.environment, world.device)
            begun = files.read_config()
            if config.plugins not in ([], begun.plugins):  # they were moved
                begun.plugins = config.plugins
                directory.write_config(begun, files.environment)
        else:
            place = computing_place(world.device) | {"processes": world.size}
            directory.write_config(config, environment() | place)
            directory.write_json("data.json", DataCard.of(session.data).to_dict())
        _keep_samples(directory, trainer)
        log = RunLog(directory.path)
        session.keep_log(log)
    world.barrier()
    if config.resume:
        with found_everywhere():
            resumed = resume(trainer, store, log)
        session.say(
            f"going on from step {trainer.step:,} of {trainer.total_steps:,}"
            if resumed
            else "no checkpoint was written yet: starting from the first step"
        )
    try:
        complete = train(
            trainer,
            store=store,
            log=log,
            world=world,
            interruption=session.interruption,
            checkpoint_minutes=config.checkpoint_minutes,
            title=command,
        )
    except KeyboardInterrupt:
        # The second Ctrl-C: a step was in the way.
        if not (saved := store.files()):
            raise
        message = f"stopped at once; the last state is that of step {saved[0][0]:,}; go on with: "
        raise Interrupted(signal.SIGINT, message + resume_command(command, path)) from None
    finally:
        trainer.close()
        if log is not None:
            log.close()
    if not complete:
        message = (
            f"state saved after step {trainer.step:,} of {trainer.total_steps:,}; go on with: "
            f"{resume_command(command, path)}"
        )
        if log is not None:
            log.message(message, show=False)
        raise session.interruption.stop(message)
    return trainer, directory


def _keep_samples(directory: RunDirectory, trainer: Trainer) -> None:
    """Write what the report shows of the training images, unless it is there already."""
    if (directory.path / SAMPLES_FILE).exists():
        return
    # A file that cannot be decoded is told by the training, which comes upon it too.
    with contextlib.suppress(RequestError):
        directory.write_npz(SAMPLES_FILE, sample_arrays(trainer))


def _check_unchanged(directory: RunDirectory, data: ImageData) -> None:
    """Refuse to go on with a run on other data than it began with."""
    files = RunFiles(directory.path)
    if not files.data:
        return  # it ended before it wrote what it began with
    changed = DataCard.from_dict(files.data).difference(DataCard.of(data))
    if changed is not None:
        raise RequestError(
            f"--resume: the data set has changed since {directory.path} began ({changed}): bring "
            "back what it was, or start another run"
        )
