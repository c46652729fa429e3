"""What a command imports at its start: no more than it needs, and without garbage collection."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from ssfnas.runtime.imports import first_imports

# Each takes a large part of a second, or more.
SLOW = ("matplotlib.pyplot", "tensorboard", "timm", "torchmetrics", "torchvision")


@pytest.mark.parametrize("module", ["search_run", "retrain_run", "evaluation"])
def test_slow_libraries_wait_until_they_are_used(module):
    code = (
        f"import sys; import ssfnas.pipeline.{module}; "
        f"print(*(name for name in {SLOW} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_the_first_imports_are_not_looked_through():
    code = (
        "import gc\n"
        "from ssfnas.runtime.imports import first_imports\n"
        "with first_imports():\n"
        "    assert not gc.isenabled()\n"
        "    kept = [[]]\n"
        "    import ssfnas.pictures\n"
        "assert gc.isenabled()\n"
        "assert all(one is not kept for one in gc.get_objects())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_module_that_is_missing_leaves_collection_on(monkeypatch):
    monkeypatch.delitem(sys.modules, "ssfnas.pictures", raising=False)
    try:
        with pytest.raises(ModuleNotFoundError), first_imports():
            import ssfnas.no_such_module  # noqa: F401
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_later_ones_change_nothing():
    import ssfnas.pictures  # noqa: F401

    before = gc.get_freeze_count()
    with first_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
