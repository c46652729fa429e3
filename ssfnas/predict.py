"""``python -m ssfnas.predict``: use a trained network on new images."""

from __future__ import annotations

import sys

from ssfnas.commandline import main as run_command
from ssfnas.config import PredictConfig
from ssfnas.runtime.imports import first_imports


def predict(config: PredictConfig) -> None:
    """Print what the network says, and write what ``config`` asks for."""
    with first_imports():
        from ssfnas.atomic_files import write_atomically
        from ssfnas.pipeline.prediction import page_file, predict_images
        from ssfnas.pipeline.run import Run
        from ssfnas.plugins import import_plugins
        from ssfnas.runtime.distributed import start_world
        from ssfnas.runtime.memory import kept_memory
        from ssfnas.runtime.threads import computing_threads

    import_plugins(config.plugins)
    device = start_world(config.device).device
    run = Run(config.run)
    with computing_threads(config.threads), kept_memory(device.type):
        predicted = predict_images(run, config, device)
    for note in predicted.notes:
        print(note)
    print("\n".join(predicted.lines))
    if config.out is not None:
        print(f"written      {config.out}")
    if predicted.page is not None:
        file = page_file(run, config)
        write_atomically(file, predicted.page.encode())
        print(f"report       {file}")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(
        PredictConfig,
        predict,
        prog="ssfnas.predict",
        description="Use a trained network on new images: class and probability of each.",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
