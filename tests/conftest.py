import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def _alike():
    """The same initial weights in every run; one thread, because two on shared cores can be far slower than one."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
