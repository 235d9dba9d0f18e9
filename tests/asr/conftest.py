"""What several families of recognisers are tested on."""

import pytest


@pytest.fixture(scope="session")
def spoken(fixtures_dir):
    """Three seconds of a reader: samples, and their rate."""
    import soundfile as sf

    x, rate = sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")
    x.setflags(write=False)
    return x, rate
