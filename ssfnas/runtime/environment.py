"""What a result was computed with: versions, commit, machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "ssfnas",
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "rich",
    "tensorboard",
    "torchmetrics",
    "safetensors",
    "matplotlib",
    "timm",
    "huggingface_hub",
    "PyYAML",
)


def package_versions() -> dict[str, str | None]:
    """Name -> installed version, or None, of ssfnas and all that it depends on."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def commit() -> str | None:
    """The commit of the checkout that ssfnas runs from, ``-modified`` where files differ from it.

    None where it does not run from a checkout, or git is not there.
    """
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        # Installed below somebody else's checkout, that one's commit would say nothing about us.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-modified" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Plain values that go into a run's ``config.yaml``."""
    import torch

    return {
        **package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": cpu_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "commit": commit(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "started_with": " ".join(sys.argv),
    }
