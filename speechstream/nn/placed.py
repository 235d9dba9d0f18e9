"""Weights of a bundle as they are stored, for networks that are made without memory; and where networks run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError

M = TypeVar("M", bound=nn.Module)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_place(device: str, threads: int | None, dtype: str) -> torch.dtype:
    """The type of that name, with so many threads from now on. Raises SpeechStreamError without a GPU, ValueError for a name."""
    if device != "cpu" and not torch.cuda.is_available():
        raise SpeechStreamError(f"device {device!r} was asked for, but torch sees no GPU")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if threads:
        torch.set_num_threads(threads)
    return DTYPES[dtype]


def read_weights(
    b: Bundle, name: str, expected: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The tensors of a file, in the type that they are stored in.

    Raises SpeechStreamError where they are not those expected, before anything is made of their sizes.
    """
    try:
        with safe_open(b.file(name), framework="pt") as file:
            given = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}
            if given != expected:
                first = sorted(given.items() ^ expected.items())[0][0]
                raise SpeechStreamError(
                    f"the bundle {b.path} does not fit together: its {first} is {given.get(first, 'missing')}, expected "
                    f"{expected.get(first, 'no such weight')}"
                )
            return {n: file.get_tensor(n) for n in expected}
    except (SafetensorError, OSError) as error:
        raise SpeechStreamError(
            f"the weights of the bundle {b.path} are damaged: {str(error)[:200]}"
        ) from error


def stored_shapes(
    make: Callable[[], nn.Module], tied: Mapping[str, str]
) -> dict[str, tuple[int, ...]]:
    """Every tensor that is stored of a network, and its shape. tied: layers that have the weight of another, by name."""
    with torch.device("meta"):
        found = {n: tuple(t.shape) for n, t in make().state_dict().items()}
    return {n: shape for n, shape in found.items() if n.removesuffix(".weight") not in tied}


def read_model(b: Bundle, name: str, make: Callable[[], M], tied: Mapping[str, str]) -> M:
    """The network of a file's weights, in the type that they are stored in. tied: as for `stored_shapes`.

    Raises SpeechStreamError where the weights are not those of this network.
    """
    found = read_weights(b, name, stored_shapes(make, tied))
    with torch.device("meta"):
        model = make()
    found |= {f"{one}.weight": found[f"{other}.weight"] for one, other in tied.items()}
    model.load_state_dict(found, assign=True)
    for one, other in tied.items():
        model.get_submodule(one).weight = model.get_submodule(other).weight
    return model
