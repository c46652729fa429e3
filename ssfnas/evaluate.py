"""``python -m ssfnas.evaluate``: measure a trained network on the test part."""

from __future__ import annotations

import dataclasses
import sys

from ssfnas.commandline import main as run_command
from ssfnas.config import DataOptions, EvaluateConfig


def evaluate(config: EvaluateConfig) -> None:
    """Write what was measured, and print it.

    ``evaluation.json``, which the report shows, is that of the last weights on the run's own data;
    whatever else is measured has a file of its own.
    """
    from ssfnas.data import load_data
    from ssfnas.pictures import report_html
    from ssfnas.pipeline.evaluation import evaluate_network, table, write_evaluation
    from ssfnas.pipeline.run import EVALUATION_FILE, Run
    from ssfnas.plugins import import_plugins
    from ssfnas.runtime.distributed import start_world

    import_plugins(config.plugins)
    device = start_world(config.device).device
    run = Run(config.run)
    options = DataOptions(
        **{f.name: getattr(run.config, f.name) for f in dataclasses.fields(DataOptions)}
    )
    if config.dataset is not None:
        options = dataclasses.replace(options, dataset=config.dataset, imbalance_ratio=None)
    result = evaluate_network(run, load_data(options), config, device)
    written = write_evaluation(run, result, config)
    if written.name == EVALUATION_FILE:
        run.directory.write_text("report.html", report_html([run.path]))
    print(table(result))
    print(f"written      {written}")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(
        EvaluateConfig,
        evaluate,
        prog="ssfnas.evaluate",
        description="Measure a trained network: accuracy by class and group, calibration, and what "
        "post-hoc corrections would give.",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
