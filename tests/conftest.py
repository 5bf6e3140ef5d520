"""Shared by all tests: no network, one thread for each process, and GPU tests only where there is a GPU."""

import os
from collections.abc import Iterator

# Nothing listens there. Read when huggingface_hub is first imported, so it is set before any import of it.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("sharingan", deadline=None)
hypothesis.settings.load_profile("sharingan")


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Training makes the smallest numbers count as zero for the whole process; no other test should see that."""
    yield
    torch.set_flush_denormal(False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
