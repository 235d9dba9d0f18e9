"""`speechstream info` and `speechstream devices`."""

import json

import pytest

import speechstream
from speechstream import bundle
from speechstream.audio.device import Device
from speechstream.cli import main
from speechstream.errors import SpeechStreamError

CARD = {
    "name": "Small model",
    "licence": "MIT",
    "date": "2026-01-02",
    "training_data": [
        {"name": "LibriSpeech", "licence": "CC BY 4.0", "hours": 9.5},
        {"name": "Common Voice", "licence": "CC0", "hours": 4},
    ],
    "wer": {"clean": {"offline": 6.5, "320 ms": 7.25}, "other": {"offline": 12.0, "320 ms": 14.1}},
    "parents": ["Whisper base"],
    "notes": None,
}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(123456))
    bundle.write(tmp_path, "asr", "test", {}, CARD, ["weights"])
    return tmp_path


def test_info_shows_the_card(model, capsys):
    assert main(["info", str(model)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"speechstream {speechstream.__version__}, Python 3.")
    assert "engine onnx: onnxruntime " in out and "engine torch: " in out
    assert "weights  0.1 MB" in out
    assert "name: Small model\nlicence: MIT\ndate: 2026-01-02\n" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["clean", "6.5", "7.25"] in lines and ["other", "12.0", "14.1"] in lines
    assert ["offline", "320", "ms"] in lines and ["Common", "Voice", "CC0", "4"] in lines
    assert "notes: none" in out


def test_info_on_a_damaged_bundle_is_one_sentence(model, capsys):
    (model / "weights").write_bytes(bytes(123455) + b"\1")
    assert main(["info", str(model)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "weights is not as its maker left it" in err


def test_devices(monkeypatch, capsys):
    found = [
        Device(0, "Built-in", "ALSA", 2, 2, 48000, True, False),
        Device(3, "Headset", "ALSA", 1, 0, 16000, False, False),
    ]
    monkeypatch.setattr("speechstream.audio.device.devices", lambda: found)
    assert main(["devices"]) == 0
    assert capsys.readouterr().out == (
        "microphones (* is the default)\n"
        "*   0  Built-in  (ALSA, 2 channels, 48000 Hz)\n"
        "    3  Headset  (ALSA, 1 channel, 16000 Hz)\n"
        "loudspeakers (* is the default)\n"
        "    0  Built-in  (ALSA, 2 channels, 48000 Hz)\n"
    )
    monkeypatch.setattr("speechstream.audio.device.devices", list)
    assert main(["devices"]) == 0
    assert "no sound device" in capsys.readouterr().err


def test_devices_without_portaudio_are_one_sentence(monkeypatch, capsys):
    def missing():
        raise SpeechStreamError("install it")

    monkeypatch.setattr("speechstream.audio.device.devices", missing)
    assert main(["devices"]) == 2
    assert capsys.readouterr().err == "speechstream: install it\n"


def test_a_card_is_json_that_survives(model):
    assert json.loads((model / bundle.INDEX).read_text())["card"] == CARD
