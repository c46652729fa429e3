"""A whole retraining as a run: directory, checkpoints, logs, weights, evaluation, report."""

from __future__ import annotations

from safetensors.torch import save

from ssfnas.config import EvaluateConfig, RetrainConfig
from ssfnas.data import VIEWS, ImageData, usual_cutout
from ssfnas.errors import RequestError, found_everywhere, written
from ssfnas.objectives import LOSSES
from ssfnas.pictures import report_html
from ssfnas.pictures.numbers import duration
from ssfnas.pictures.series import elapsed
from ssfnas.pipeline.dry_run import predict
from ssfnas.pipeline.evaluation import evaluate_network, write_mistakes
from ssfnas.pipeline.evaluation_table import choice_lines, measured_line
from ssfnas.pipeline.fitting import fit_retraining
from ssfnas.pipeline.run import Run
from ssfnas.pipeline.search_run import write_genotype
from ssfnas.pipeline.session import Session, open_session, run_training
from ssfnas.runs.finished_runs import require_genotype
from ssfnas.runs.next_commands import use_commands
from ssfnas.runs.run_directory import RunDirectory
from ssfnas.runs.run_files import EVALUATION_FILE, RunFiles
from ssfnas.runtime.precision import what_bf16_gains
from ssfnas.spaces import Genotype, count_multiply_adds, count_parameters
from ssfnas.training.graphed_step import how_launched, why_not_graphed
from ssfnas.training.retrain_trainer import RetrainTrainer, weights_of


def run_retrain(config: RetrainConfig) -> Run | None:
    """Train the network of a genotype, and write everything that a retraining leaves behind.

    Args:
        config: see :class:`~ssfnas.config.RetrainConfig`; ``out`` is filled in where it is None.

    Returns:
        The run; None with ``dry_run``, which writes nothing.

    Raises:
        RequestError: the request is wrong; nothing was written.
        NumericalError: a loss became NaN or infinite.
        Interrupted: a signal came; the state is saved.
    """
    with open_session(
        config, lambda: _check_names(config), lambda world: why_not_graphed(config, world)
    ) as session:
        with found_everywhere():
            genotype = _genotype(config)
            fitted = fit_retraining(config, session.data, session.world.size)
            _check(config, session)

        def make(changed: RetrainConfig, data: ImageData = session.data) -> RetrainTrainer:
            return RetrainTrainer(changed, data, genotype, session.world)

        session.say_data(fitted, "longtail")
        if config.dry_run:
            session.say(_describe(make(config)))
            session.say(predict(make, config, session.data, session.world.size))
            return None
        if session.world.device.type == "cuda":
            session.say(how_launched(config, session.world))
        if gain := what_bf16_gains(config.precision, session.world.device):
            session.say(gain)
        trained, directory = run_training(session, "retrain", make)
        assert isinstance(trained, RetrainTrainer)
        if directory is None:
            return Run(str(config.out))
        with directory:
            _finish(trained, genotype, directory, session)
        return Run(directory.path)


def _check_names(config: RetrainConfig) -> None:
    """Refuse a loss or views that nothing has registered, before anything is loaded."""
    LOSSES.get(config.loss)
    VIEWS.get(config.augment)


def _genotype(config: RetrainConfig) -> Genotype | None:
    if config.model != "derived":
        config.genotype = None  # of a file, which was warned of; the command line refuses the flag
        return None
    if config.genotype is None:
        raise RequestError(
            "--genotype is missing: give a genotype.json, a search's run directory, or the name of "
            "a published cell such as DARTS_V2"
        )
    require_genotype(config.genotype, f"--genotype {config.genotype}")
    genotype = Genotype.load(config.genotype)
    try:
        genotype.check()
    except RequestError as error:
        raise RequestError(f"--genotype {config.genotype}: {error}") from None
    return genotype


def _check(config: RetrainConfig, session: Session) -> None:
    processes = session.world.size
    if config.pretrain_epochs > 0 and config.pretrain_batch_size % processes:
        raise RequestError(
            f"--pretrain-batch-size {config.pretrain_batch_size} cannot be shared by {processes} "
            f"processes: use a multiple of {processes}"
        )
    if config.pretrain_epochs > 0 and not config.projector:
        raise RequestError("--projector names no layer: give widths such as 2048,2048,2048")
    if config.batch_size // session.world.size < 2:
        raise RequestError(
            f"--batch-size {config.batch_size}: batch normalization needs at least 2 a process"
        )
    _check_cutout(config, session)
    if config.crt_epochs > 0:
        _check_rates(config.crt_lr, session.data)


def _check_cutout(config: RetrainConfig, session: Session) -> None:
    """Refuse a square that can blank a whole image, and say one that is unusual."""
    (height, width), usual = session.data.image_size, usual_cutout(session.data.image_size)
    if config.cutout is None:
        if usual < usual_cutout((32, 32)):
            session.say(f"cutout       {usual} pixels a side, half of {min(height, width)}")
        return
    # Centered in the middle of the image it covers all; a run that began so may end so.
    if config.cutout >= max(height, width) and not config.resume:
        raise RequestError(
            f"--cutout {config.cutout} can blank whole images of {width} x {height} pixels: use "
            f"{usual} or less, or leave it out"
        )
    share = config.cutout**2 / (height * width)
    if share > 1 / 4:
        session.say(
            f"cutout       {config.cutout} pixels a side are {100 * share:.0f} % of an image of "
            f"{width} x {height}: {usual} would be at most a quarter"
        )


def _check_rates(rates: list[float], data: ImageData) -> None:
    if len(rates) > 1 and data.validation is None:
        raise RequestError(
            f"--crt-lr {written(rates)}: {data.name} has no validation part to choose among them: "
            "give one rate, or hold a share out with --validation-share"
        )
    if len(set(rates)) < len(rates):
        raise RequestError(f"--crt-lr {written(rates)}: a rate stands there twice")


def _describe(trainer: RetrainTrainer) -> str:
    data = trainer.data
    flops = count_multiply_adds(trainer.net, data.image_size, data.in_channels)
    return (
        f"network      {count_parameters(trainer.net, auxiliary=False):,} parameters, "
        f"{flops / 1e6:.1f} M multiply-adds an image"
    )


def _finish(
    trainer: RetrainTrainer, genotype: Genotype | None, directory: RunDirectory, session: Session
) -> None:
    if genotype is not None:
        write_genotype(genotype, directory)
    for name, weights in weights_of(trainer).items():
        # save() wants memory of its own for every tensor.
        plain = {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
        directory.write_bytes(f"{name}.safetensors", save(plain))
    if trainer.data.test is not None:
        result, mistakes = evaluate_network(
            Run(directory.path),
            trainer.data,
            EvaluateConfig(run=str(directory.path), precision=session.config.precision),
            session.world.device,
        )
        directory.write_json(EVALUATION_FILE, result)
        write_mistakes(directory, mistakes)
        session.say(f"last epoch   {measured_line(result['last_epoch'])}")
        for line in choice_lines(result["choices"]):
            session.say(f"chosen       {line}")
    directory.write_text("report.html", report_html([directory.path]))
    session.say(f"weights      {directory.path / 'model.safetensors'}")
    session.say(f"report       {directory.path / 'report.html'}")
    files = RunFiles(directory.path)
    if (trained := elapsed(files.metrics, files.started)) is not None:
        session.say(f"time         {duration(trained)}")
    for word, line in zip(
        ("next", "or"), use_commands(session.config.plugins, directory.path), strict=True
    ):
        session.say(f"{word:<12} {line}")
