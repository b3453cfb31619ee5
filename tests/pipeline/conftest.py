"""The nano model, loaded once for a file of tests."""

from pathlib import Path

import pytest

from sky4.pipeline.components import Components


@pytest.fixture(scope="module")
def components(nano_model: Path) -> Components:
    return Components.load(nano_model, "cpu", "float32")
