"""What `converse` has opened is closed, whatever fails. Devices are pretended: no sound card is needed."""

import numpy as np
import pytest
import soundfile

from speechstream.duplex import live
from speechstream.errors import SpeechStreamError


class Speaker:
    opened: list["Speaker"] = []

    def __init__(self, session, device, keep):
        self.closed = False
        Speaker.opened.append(self)

    def close(self):
        self.closed = True
        return True


class Microphone:
    """Fails where `fails` says."""

    fails = ""

    def __init__(self, *args):
        self.closed = False
        if self.fails == "made":
            raise SpeechStreamError("no microphone was found")

    def start(self):
        if self.fails == "started":
            raise SpeechStreamError("the microphone cannot be opened")

    def close(self):
        self.closed = True

    def __iter__(self):
        return iter(())


class Session:
    sample_rate, echo, now = 24_000, None, 0.0


@pytest.mark.parametrize("fails", ["made", "started", "never"])
def test_both_devices_and_the_recording_are_closed(fails, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "Loudspeaker", Speaker)
    monkeypatch.setattr(live, "Microphone", Microphone)
    monkeypatch.setattr(Microphone, "fails", fails)
    monkeypatch.setattr(Speaker, "opened", [])
    path = tmp_path / "both.wav"
    if fails == "never":  # the microphone ends
        live.converse(Session(), record=str(path))
    else:
        with pytest.raises(SpeechStreamError, match="microphone"):
            live.converse(Session(), record=str(path))
    assert [s.closed for s in Speaker.opened] == [True]
    sides, rate = soundfile.read(path)  # whole, and of no length
    assert rate == 24_000 and np.shape(sides) == (0, 2)


def test_a_recording_that_cannot_be_written_opens_no_device(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "Loudspeaker", Speaker)
    monkeypatch.setattr(Speaker, "opened", [])
    with pytest.raises(SpeechStreamError, match="cannot be written"):
        live.converse(Session(), record=str(tmp_path / "nowhere" / "both.wav"))
    assert not Speaker.opened
