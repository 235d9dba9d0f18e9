"""A bundle is whole and as its maker left it, or refused in one sentence."""

import hashlib
import json
import os

import pytest

from speechstream import bundle
from speechstream.errors import SpeechStreamError

CARD = {"name": "m", "licence": "MIT"}
CONTENT = {
    "model.safetensors": bytes(range(256)) * 9000,
    "graphs/encoder.onnx": b"graph",
    "empty": b"",
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "graphs").mkdir(parents=True)
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    bundle.write(folder, "asr", "causal-whisper", {"width": 512}, CARD, CONTENT)
    return folder


def refused(folder):
    with pytest.raises(SpeechStreamError) as caught:
        bundle.load(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def edit(folder, **changes):
    """Rewrite parts of bundle.json."""
    index = json.loads((folder / bundle.INDEX).read_text())
    (folder / bundle.INDEX).write_text(json.dumps({**index, **changes}))


def test_round_trip(folder):
    b = bundle.load(str(folder))
    assert (b.path, b.task, b.architecture, b.config, b.card) == (
        folder,
        "asr",
        "causal-whisper",
        {"width": 512},
        CARD,
    )
    assert b.files == {name: len(data) for name, data in CONTENT.items()}
    assert b.nbytes == sum(map(len, CONTENT.values()))
    assert b.file("graphs/encoder.onnx").read_bytes() == b"graph"
    with pytest.raises(SpeechStreamError, match="no file 'other'"):
        b.file("other")
    written = json.loads((folder / bundle.INDEX).read_text())["files"]
    assert {n: e["sha256"] for n, e in written.items()} == {
        n: hashlib.sha256(d).hexdigest() for n, d in CONTENT.items()
    }


def test_what_is_not_listed_is_not_checked(folder):
    (folder / "README").write_text("added later")
    assert "README" not in bundle.load(folder).files


@pytest.mark.parametrize("position", [0, 1 << 20, 256 * 9000 - 1])
def test_a_flipped_bit_is_found(folder, position):
    data = bytearray(CONTENT["model.safetensors"])
    data[position] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert "model.safetensors is not as its maker left it" in refused(folder)


def test_truncated_grown_missing(folder):
    path = folder / "model.safetensors"
    path.write_bytes(CONTENT[path.name][:-1])
    assert "has 2303999 bytes, expected 2304000" in refused(folder)
    path.write_bytes(CONTENT[path.name] + b"x")
    assert "has 2304001 bytes" in refused(folder)
    path.unlink()
    assert "model.safetensors is missing" in refused(folder)
    path.mkdir()
    assert "model.safetensors" in refused(folder)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/hostname", "a/../../x", "..", ".", "", "a//b", "a\\..\\b", "C:x", "a\0b", "./a"],
)
def test_paths_outside_are_refused_before_they_are_opened(folder, name):
    (folder.parent / "x").write_bytes(b"")
    entry = {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}
    edit(folder, files={name: entry})
    assert "not a file inside it" in refused(folder)
    with pytest.raises(ValueError, match="cannot be listed"):
        bundle.write(folder, "asr", "a", {}, CARD, [name])


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"bytes": 0},
        {"bytes": "0", "sha256": "0" * 64},
        {"bytes": True, "sha256": "0" * 64},
        {"bytes": -1, "sha256": "0" * 64},
        {"bytes": 0, "sha256": "0" * 63},
        {"bytes": 0, "sha256": "G" * 64},
        {"bytes": 0.0, "sha256": "0" * 64},
    ],
)
def test_entries_without_size_or_hash_are_refused(folder, entry):
    edit(folder, files={"empty": entry})
    assert "no size and SHA-256" in refused(folder)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"3", b'{"format": "zip"}']
)
def test_a_damaged_index_is_refused(folder, text):
    (folder / bundle.INDEX).write_bytes(text)
    refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": None},
        {"config": 3},
        {"card": "x"},
        {"task": None},
        {"architecture": 1},
    ],
)
def test_an_index_of_wrong_types_is_refused(folder, changes):
    edit(folder, **changes)
    assert f"its {next(iter(changes))!r} is missing or is no JSON" in refused(folder)


@pytest.mark.parametrize("version", [2, 0, "1", None, True, 1.5])
def test_another_version_is_refused(folder, version):
    edit(folder, version=version)
    assert f"version {version!r}" in refused(folder)


def test_an_endless_index_is_refused(folder):
    with open(folder / bundle.INDEX, "r+b") as file:
        os.truncate(file.fileno(), 1 << 30)  # sparse
    assert "too long" in refused(folder)


def test_what_is_no_bundle(tmp_path):
    assert "does not exist" in refused(tmp_path / "nothing")
    assert "it has no bundle.json" in refused(tmp_path)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tmp_path / "file")


def test_write_refuses_what_it_cannot_keep(folder):
    with pytest.raises(ValueError, match="licence"):
        bundle.write(folder, "asr", "a", {}, {"name": "m"}, [])
    with pytest.raises(ValueError, match="JSON"):
        bundle.write(folder, "asr", "a", {"x": object()}, CARD, [])
    with pytest.raises(ValueError, match="JSON"):
        bundle.write(folder, "asr", "a", {"x": float("nan")}, CARD, [])
    with pytest.raises(ValueError, match="bundle.json"):
        bundle.write(folder, "asr", "a", {}, CARD, [bundle.INDEX])
    with pytest.raises(SpeechStreamError, match="other is missing"):
        bundle.write(folder, "asr", "a", {}, CARD, ["other"])
    bundle.load(folder)  # and the old list still stands


def test_embedded(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="asr"):
        bundle.embedded("translation")
    monkeypatch.setattr(bundle, "MODELS", tmp_path)
    with pytest.raises(SpeechStreamError, match="missing from this installation"):
        bundle.embedded("asr")
    folder = tmp_path / bundle.EMBEDDED["asr"]
    folder.mkdir()
    bundle.write(folder, "asr", "a", {}, CARD, [])
    assert bundle.embedded("asr") == folder
