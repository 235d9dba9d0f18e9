"""A model on disk: a folder with `bundle.json` and the files that it lists.

    {"format": "speechstream-bundle", "version": 1, "task": "asr", "architecture": "causal-whisper",
     "config": {...},                   # what rebuilds the network and the decoding
     "card": {"name": ..., "licence": ..., ...},   # training data with licences, measured error rates, date
     "files": {"model.safetensors": {"sha256": "...", "bytes": 80123456}, ...}}

Loading reads every listed file once and compares its size and SHA-256: a bundle is whole and as its maker left it, or
it is refused. Nothing in a bundle is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechstream.errors import SpeechStreamError

FORMAT, VERSION = "speechstream-bundle", 1
INDEX = "bundle.json"
MODELS = Path(__file__).parent / "models"
EMBEDDED = {
    "asr": "causal-whisper-base",
    "tts": "blockwise-english",
}  # task: the folder in MODELS that serves it by default
_INDEX_LIMIT = 16 << 20  # bytes; a longer bundle.json is not one
_READ = 1 << 20  # bytes read at a time
_HEX = re.compile(r"[0-9a-f]{64}")
_TEXTS, _OBJECTS = ("task", "architecture"), ("config", "card", "files")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been checked. `files` maps their names to their sizes in bytes.

    `digest` is a SHA-256 over the names and SHA-256s of all files: two bundles with one digest are one model.
    """

    path: Path
    task: str
    architecture: str
    config: dict[str, Any]
    card: dict[str, Any]
    files: dict[str, int]
    digest: str = ""

    def file(self, name: str) -> Path:
        """The path of a listed file. Raises SpeechStreamError for any other: what is not listed was not checked."""
        if name not in self.files:
            raise SpeechStreamError(
                f"the bundle {self.path} has no file {name!r}; it lists {', '.join(self.files)}"
            )
        return self.path / name

    @property
    def nbytes(self) -> int:
        """Bytes of all listed files."""
        return sum(self.files.values())


def load(path: str | os.PathLike) -> Bundle:
    """Open the bundle in the folder `path` and check every file that it lists.

    Raises SpeechStreamError, naming the bundle and the reason, where it is not a bundle of a version known here, or
    where a file is missing, truncated, altered, or listed under a path outside the folder.
    """
    folder = Path(path)
    index = _read_index(folder)
    sizes = {}
    for name, entry in index["files"].items():
        _check_entry(folder, name, entry)
        sizes[name] = entry["bytes"]
    for name, entry in index["files"].items():
        _check_file(folder, name, entry)
    whole = json.dumps(sorted((name, entry["sha256"]) for name, entry in index["files"].items()))
    return Bundle(
        folder,
        index["task"],
        index["architecture"],
        index["config"],
        index["card"],
        sizes,
        hashlib.sha256(whole.encode()).hexdigest(),
    )


def write(
    folder: str | os.PathLike,
    task: str,
    architecture: str,
    config: dict,
    card: dict,
    files: Iterable[str],
) -> Bundle:
    """Make the folder, which already holds `files` (names relative to it), a bundle: write bundle.json.

    card: at least "name" and "licence". Raises ValueError for what cannot be listed or is not JSON, and
    SpeechStreamError where a file is missing.
    """
    folder = Path(folder)
    missing = [key for key in ("name", "licence") if not card.get(key)]
    if missing:
        raise ValueError(f"the card of a bundle must give its {' and '.join(missing)}")
    entries = {}
    for name in files:
        if not _is_inside(name) or name == INDEX:
            raise ValueError(
                f"{name!r} cannot be listed in a bundle; expected the name of another file in {folder}"
            )
        digest, size = _digest(folder, name)
        entries[name] = {"sha256": digest, "bytes": size}
    index = {
        "format": FORMAT,
        "version": VERSION,
        "task": task,
        "architecture": architecture,
        "config": config,
        "card": card,
        "files": entries,
    }
    try:
        text = json.dumps(index, indent=1, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the config and the card of a bundle must be JSON: {error}") from error
    unfinished = folder / (INDEX + ".part")
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, folder / INDEX)
    return load(folder)


def embedded(task: str = "asr") -> Path:
    """The folder of the model that is installed with this package for a task.

    Raises ValueError for a task that has none, and SpeechStreamError where the installation lacks it.
    """
    if task not in EMBEDDED:
        raise ValueError(
            f"there is no embedded model for {task!r}; expected one of {', '.join(EMBEDDED)}"
        )
    folder = MODELS / EMBEDDED[task]
    if not (folder / INDEX).is_file():
        raise SpeechStreamError(
            f"the embedded model {EMBEDDED[task]} is missing from this installation; "
            "install speechstream again, or give the path of a bundle"
        )
    return folder


def _read_index(folder: Path) -> dict[str, Any]:
    """bundle.json with all its keys, each of the right type."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise SpeechStreamError(f"{folder} {what}, expected the folder of a bundle")
    path = folder / INDEX
    try:
        if path.stat().st_size > _INDEX_LIMIT:
            raise SpeechStreamError(
                f"{path} has {path.stat().st_size} bytes, which is too long for a bundle's list"
            )
        index = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise SpeechStreamError(f"{folder} is not a bundle: it has no {INDEX}") from None
    except OSError as error:
        raise SpeechStreamError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise SpeechStreamError(f"{path} is damaged: it is not JSON") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise SpeechStreamError(
            f"{path} is not a speechstream bundle: its format is not {FORMAT!r}"
        )
    version = index.get("version")
    if version != VERSION or isinstance(version, bool):
        raise SpeechStreamError(
            f"the bundle {folder} is of version {version!r}, and this speechstream reads version "
            f"{VERSION}; a newer speechstream may read it"
        )
    for kind, names, noun in ((str, _TEXTS, "text"), (dict, _OBJECTS, "object")):
        for name in names:
            if not isinstance(index.get(name), kind):
                raise SpeechStreamError(
                    f"{path} is damaged: its {name!r} is missing or is no JSON {noun}"
                )
    return index


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # which Python reads all the same


def _check_entry(folder: Path, name: str, entry: Any) -> None:
    """Before any file is opened: is this a file of this folder, with a size and a SHA-256?"""
    if not _is_inside(name):
        raise SpeechStreamError(
            f"the bundle {folder} is refused: it lists {name!r}, which is not a file inside it"
        )
    size, digest = (
        (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    )
    if (
        type(size) is not int
        or size < 0
        or not isinstance(digest, str)
        or not _HEX.fullmatch(digest)
    ):
        raise SpeechStreamError(
            f"{folder / INDEX} is damaged: the entry of {name!r} has no size and SHA-256"
        )


def _check_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
    expected = entry["bytes"]
    try:
        found = (folder / name).stat().st_size
    except (OSError, ValueError):
        found = None  # said by _digest
    if found is not None and found != expected:
        raise SpeechStreamError(
            f"the bundle {folder} is damaged: {name} has {found} bytes, expected {expected}; "
            "fetch it again"
        )
    if _digest(folder, name)[0] != entry["sha256"]:
        raise SpeechStreamError(
            f"the bundle {folder} is damaged: {name} is not as its maker left it (its SHA-256 "
            "differs); fetch it again"
        )


def _is_inside(name: Any) -> bool:
    """Whether a name is a plain relative path, on every system: no "..", no root, no drive, no backslash."""
    return (
        isinstance(name, str)
        and name.isprintable()
        and not set(name) & set("\\:")
        and all(part not in ("", ".", "..") for part in name.split("/"))
    )


def _digest(folder: Path, name: str) -> tuple[str, int]:
    """SHA-256 and size of a file."""
    sha, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(_READ))
    try:
        with open(folder / name, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                sha.update(buffer[:count])
                size += count
    except OSError as error:
        reason = (
            "is missing"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read ({error.strerror})"
        )
        raise SpeechStreamError(f"the bundle {folder} is damaged: {name} {reason}") from error
    return sha.hexdigest(), size
