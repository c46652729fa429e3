"""``python -m ssfnas.derive``: read another genotype from a finished search."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from ssfnas.commandline import main as run_command
from ssfnas.config import DeriveConfig
from ssfnas.errors import RequestError, written
from ssfnas.runtime.imports import first_imports


def derive_again(config: DeriveConfig) -> None:
    """Write the genotype that the rule gives, how, and its pictures.

    It becomes the run's own where the search left none, and the report is made anew; else it is
    written to a folder of its own in the run's, and what the search left stays.
    """
    with first_imports():
        import torch

        from ssfnas.declarations.derivations import DERIVATIONS, PERTURBATION
        from ssfnas.pictures import report_html
        from ssfnas.pictures.series import elapsed
        from ssfnas.pipeline.advice import following_lines, is_worth_measuring
        from ssfnas.pipeline.perturbation import perturbation_settings, select_by_perturbation
        from ssfnas.pipeline.run import Run
        from ssfnas.pipeline.search_run import write_derivation, write_genotype
        from ssfnas.plugins import import_plugins
        from ssfnas.runs.finished_runs import require_finished
        from ssfnas.runs.run_directory import DERIVED_FOLDER, RunDirectory
        from ssfnas.runtime.threads import computing_threads
        from ssfnas.spaces import DerivedNetwork, Genotype, count_multiply_adds, count_parameters
        from ssfnas.strategies.derivation import derive, limit

    import_plugins(config.plugins)
    run = Run(config.run)
    if run.command != "search":
        raise RequestError(
            f"--run {config.run} holds a {run.command}: give the directory of a search"
        )
    if not run.trains_alphas:
        raise RequestError(
            f"--run {config.run} is a random search: it has no alphas to derive from"
        )
    require_finished(config.run, f"--run {config.run}")
    tables = run.weights
    epochs = len(tables["normal"]) - 1
    measured = config.derive == PERTURBATION
    settings = (
        perturbation_settings(run, config)
        if measured
        else DERIVATIONS.get(config.derive).settings(config)
    )
    epoch = int(run.alphas["use_epoch"]) if config.epoch is None else config.epoch
    if measured:
        epoch = epochs
    if epoch > epochs:
        raise RequestError(f"--epoch {epoch}: {config.run} has alphas after epochs 0 to {epochs}")
    weights = {cell: torch.from_numpy(table[epoch]) for cell, table in tables.items()}
    derived = run.path / DERIVED_FOLDER
    if measured:
        # Limits come after it: with others nothing is measured again.
        genotype = select_by_perturbation(
            run, config, settings, derived / _title(config.derive, settings)
        )
    else:
        genotype = derive(
            weights, run.operations, config.derive, max_skips=config.max_skips, **settings
        )

    card = run.data_card
    image_size = card.original_size or card.image_size  # of the retraining that is suggested

    def size(candidate: Genotype) -> tuple[int, int]:
        """Parameters and multiply-adds of the network."""
        with torch.device("meta"):
            net = DerivedNetwork(
                candidate,
                len(card.class_names),
                in_channels=card.in_channels,
                channels=config.channels,
                layers=config.layers,
                image_size=image_size,
            )
        flops = count_multiply_adds(net, image_size, card.in_channels)
        return count_parameters(net, auxiliary=False), flops

    limits = {"--max-params": config.max_params, "--max-flops": config.max_flops}

    def fits(candidate: Genotype) -> bool:
        found = zip(size(candidate), limits.values(), strict=True)
        return all(most is None or n <= most for n, most in found)

    if given := [flag for flag, most in limits.items() if most is not None]:
        genotype = limit(genotype, weights, run.operations, fits, given)
    parameters, flops = size(genotype)
    if config.out is not None:
        file = named = Path(config.out)
        genotype.save(file)
    else:
        own = not (run.path / "genotype.json").exists()
        named = run.path if own else derived / _title(config.derive, settings, _limits(config))
        named.mkdir(parents=True, exist_ok=True)
        folder = RunDirectory(named, run.command)
        write_genotype(genotype, folder)
        write_derivation(folder, config, epoch, settings)
        if own:
            run.directory.write_text("report.html", report_html([run.path]))
        file = named / "genotype.json"
    print(genotype.to_text())
    print(
        f"network      {parameters:,} parameters, {flops / 1e6:.1f} M multiply-adds an image "
        f"({config.channels} channels, {config.layers} cells)"
    )
    print(f"written      {file}")
    labels = None  # of several an image, the sizes of the classes do not say how many images
    if not card.multi_label and is_worth_measuring(elapsed(run.metrics, run.started)):
        labels = torch.arange(len(card.class_names)).repeat_interleave(
            torch.tensor(card.class_counts)
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with computing_threads(None):
        name = f"{run.path}-{named.name}" if config.out is None else None
        for line in following_lines(run.config, genotype, named, card, labels, device, name=name):
            print(line)


def _limits(config: DeriveConfig) -> dict[str, object]:
    """What a request asks for besides its rule."""
    sizes = {"max_params": config.max_params, "max_flops": config.max_flops}
    found: dict[str, object] = {
        "max_skips": config.max_skips,
        "epoch": config.epoch,
        **sizes,
    }
    if any(most is not None for most in sizes.values()):
        found |= {"channels": config.channels, "layers": config.layers}
    return found


def _title(
    rule: str, settings: Mapping[str, object], limits: Mapping[str, object] | None = None
) -> str:
    """A name for what is derived in this way; the same for the same request."""
    words = [
        written(value) if name == rule else f"{name.replace('_', '-')}-{written(value)}"
        for name, value in {**settings, **(limits or {})}.items()
        if value is not None
    ]
    return "-".join([rule, *words]).replace("/", "-")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(
        DeriveConfig,
        derive_again,
        prog="ssfnas.derive",
        description="Derive a genotype from a search's alphas by another rule or threshold.",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
