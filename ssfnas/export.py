"""``python -m ssfnas.export``: write a trained network for ONNX, torch.export, timm or the Hub."""

from __future__ import annotations

import sys

from ssfnas.commandline import main as run_command
from ssfnas.config import ExportConfig
from ssfnas.runtime.imports import first_imports


def export(config: ExportConfig) -> None:
    """Write the network in the form that is asked for, and say how it is loaded."""
    with first_imports():
        from ssfnas.pipeline.export import export_network
        from ssfnas.pipeline.run import Run
        from ssfnas.plugins import import_plugins

    import_plugins(config.plugins)
    for name, text in export_network(Run(config.run), config):
        print(f"{name:<12} {text}")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(
        ExportConfig,
        export,
        prog="ssfnas.export",
        description="Write a trained network in a form that others load: ONNX, torch.export, or a "
        "folder for timm and the Hugging Face Hub.",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
