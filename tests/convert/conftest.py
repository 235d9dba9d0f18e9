"""What the tests of several converters have in common."""

import shutil

import pytest


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the checkpoint in `folder`, a fixture of the module's, to be spoilt."""
    return shutil.copytree(folder, tmp_path / "copy")
