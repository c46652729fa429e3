from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _empty_is_nan():
    """Whatever ``torch.empty`` gives holds NaN, so a place that nobody writes is seen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def threads():
    """``torch.set_num_threads``, undone afterward."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
