"""Files of torch.save as tensors alone: no code in them is executed, and no more is read than they hold."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechstream.errors import SpeechStreamError

MAX_SHARED = 2  # times a file's bytes that its tensors may have: some name one another's
MOST_OBJECTS = 1_000_000  # of a file: tensors, lists and what is in them


def load(file: str | Path | bytes, what: str = "") -> Any:
    """What a file (or the bytes of one) holds: tensors in the processor's memory, dicts, lists, numbers and texts.

    what: what it is called in messages, its path by default. Raises SpeechStreamError for a file that is damaged, holds
    code or objects, or is packed; and for tensors that are not plain or claim more numbers than the file has.
    """
    what = what or ("the file" if isinstance(file, bytes) else os.fspath(file))
    source = io.BytesIO(file) if isinstance(file, bytes) else Path(file)
    try:
        size = len(file) if isinstance(file, bytes) else os.path.getsize(file)
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as entries:
                if sum(e.file_size for e in entries.infolist()) > size:
                    raise ValueError("packed more than once, or compressed")
        if isinstance(source, io.BytesIO):
            source.seek(0)
        with warnings.catch_warnings():  # the file is judged here, in one sentence
            warnings.simplefilter("ignore")
            found = torch.load(source, map_location="cpu", weights_only=True)
        tensors = list(_tensors(found))
    except pickle.UnpicklingError as error:  # torch's own message recommends to execute it
        raise SpeechStreamError(
            f"{what} holds code or objects, not just tensors; nothing was executed"
        ) from error
    except Exception as error:  # torch has no list of what it raises for damaged files
        raise SpeechStreamError(f"{what} is damaged: it is no file of weights") from error
    if not all(
        t.layout == torch.strided and t.device.type == "cpu" and not t.is_quantized for t in tensors
    ):
        raise SpeechStreamError(f"{what} holds tensors that claim to lie elsewhere, or are packed")
    if sum(t.numel() * t.element_size() for t in tensors) > MAX_SHARED * size:
        raise SpeechStreamError(f"{what} holds tensors that claim more than the file has")
    return found


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor, however deep it lies. Raises ValueError for more objects than a file of weights has."""
    waiting, count = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            yield one
        if not isinstance(one, (dict, list, tuple, set)):
            continue
        count += len(one)
        if count > MOST_OBJECTS:  # some may hold one another without end
            raise ValueError("too many objects")
        waiting += one.values() if isinstance(one, dict) else one
