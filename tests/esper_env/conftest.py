"""Fixtures of the environment's tests."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("esper", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("esper")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: more threads only get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
