"""What is dear to make, made once in a run of the tests, whichever worker asks for it first."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

try:
    import fcntl
except ImportError:  # on Windows each worker makes its own
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes that lock this file; a process that dies gives its lock back."""
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make(folder)` has filled, once for all workers of this run. Nobody changes it: copy what is to be spoilt.

    A run has a folder of its own, so nothing made by other code is found in it.
    """
    base = factory.getbasetemp()
    together = fcntl is not None and "PYTEST_XDIST_WORKER" in os.environ
    folder = (base.parent if together else base) / "made" / name
    folder.parent.mkdir(exist_ok=True)
    with _locked(folder.with_suffix(".lock")) if together else contextlib.nullcontext():
        if not folder.exists():
            part = Path(factory.mktemp("part"))
            make(part)
            part.rename(folder)
    return folder
