"""Checkpoints that are not what they say: how they are made of good ones, and what must happen to them."""

import json

import pytest

from speechstream.errors import SpeechStreamError

CARD = {"name": "tiny", "licence": "none"}


def refused_by(convert, copy, match):
    """A folder is refused in one sentence, and nothing is written."""
    with pytest.raises(SpeechStreamError, match=match) as found:
        convert(copy, copy.parent / "bundle", CARD)
    assert "\n" not in str(found.value) and len(str(found.value)) < 600
    assert not (copy.parent / "bundle").exists()


def changed(copy, *path, value):
    """config.json with another value at a path."""
    data = json.loads((copy / "config.json").read_text("utf-8"))
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (copy / "config.json").write_text(json.dumps(data), "utf-8")


def check_weights(convert, copy, taken, unknown):
    """Weights that are damaged, lacking or too many. taken, unknown: names here, of one that is taken away and one added."""
    from safetensors.torch import load_file, save_file

    path = copy / "model.safetensors"
    weights, whole = load_file(path), path.read_bytes()
    name = next(n for n, w in weights.items() if w.ndim == 1)
    save_file(weights | {name: weights[name] * float("inf")}, path)
    with pytest.raises(SpeechStreamError, match="holds NaN or infinity"):
        convert(copy, copy.parent / "half", CARD)
    save_file({n: w for n, w in weights.items() if taken[0] not in n}, path)
    refused_by(convert, copy, f"lacks the tensor '{taken[1]}")
    save_file(weights | {unknown: weights[name].clone()}, path)
    refused_by(convert, copy, "has an unknown tensor")
    # a header that claims more than the file has
    size = int.from_bytes(whole[:8], "little")
    head = json.loads(whole[8 : 8 + size])
    first = next(n for n in head if n != "__metadata__")
    head[first]["shape"] = [1 << 40]
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + size :])
    refused_by(convert, copy, "is damaged")
    path.write_bytes(whole[:-100])
    refused_by(convert, copy, "is damaged")
    path.unlink()
    refused_by(convert, copy, r"has no \*.safetensors")
