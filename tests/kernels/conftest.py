"""Kernels run in Triton's interpreter here; Triton reads that wish when it is first imported."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch

from speechstream.kernels import dispatch


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def both():
    """both(f): f run by the kernels, which get memory filled with NaN to write to, and by the reference."""

    def run(f):
        torch.use_deterministic_algorithms(
            True, warn_only=True
        )  # torch then fills what it allocates
        try:
            with dispatch.using("interpret"):
                kernel = f()
        finally:
            torch.use_deterministic_algorithms(False)
        with dispatch.using("off"):
            return kernel, f()

    return run


@pytest.fixture
def close():
    """close(a, b, tolerance): every tensor of two (nested) results agrees."""

    def check(a, b, tolerance=1e-5):
        if isinstance(a, (tuple, list)):
            assert len(a) == len(b)
            for x, y in zip(a, b):
                check(x, y, tolerance)
        elif a is not None:
            assert a.shape == b.shape
            torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)

    return check
