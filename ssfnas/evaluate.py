"""``python -m ssfnas.evaluate``: measure a trained network on the test part."""

from __future__ import annotations

import sys

from ssfnas.commandline import main as run_command
from ssfnas.config import EvaluateConfig
from ssfnas.runtime.imports import first_imports


def evaluate(config: EvaluateConfig) -> None:
    """Write what was measured, and print it.

    ``evaluation.json``, which the report shows, is that of the last weights on the run's own data;
    whatever else is measured has a file of its own.
    """
    with first_imports():
        from ssfnas.pictures import report_html
        from ssfnas.pipeline.evaluation import evaluate_network, write_evaluation
        from ssfnas.pipeline.evaluation_data import evaluation_data
        from ssfnas.pipeline.evaluation_table import table
        from ssfnas.pipeline.run import Run
        from ssfnas.plugins import import_plugins
        from ssfnas.runs.run_files import EVALUATION_FILE
        from ssfnas.runtime.distributed import start_world
        from ssfnas.runtime.memory import kept_memory
        from ssfnas.runtime.threads import computing_threads

    import_plugins(config.plugins)
    device = start_world(config.device).device
    run = Run(config.run)
    data, notes = evaluation_data(run, config)
    for note in notes:
        print(note)
    with computing_threads(config.threads), kept_memory(device.type):
        result, mistakes = evaluate_network(run, data, config, device)
    if notes:
        result["data"]["notes"] = notes
    written = write_evaluation(run, result, mistakes, config)
    if written.name == EVALUATION_FILE:
        run.directory.write_text("report.html", report_html([run.path]))
    print(table(result, run.data_card.class_names))
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
