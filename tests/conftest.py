"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: a second thread only waits

from plisse.data.folder import data_folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of data sets; tests that need it are skipped where it is not there."""
    folder = data_folder()
    if folder is None:
        pytest.skip("no data folder: set PLISSE_DATA, or put it at ../shared/data")
    return folder
