"""The embedded voices: text encoder, block decoder, depth-wise codes and codec, one block after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import numpy as np

from speechstream import bundle
from speechstream.errors import SpeechStreamError
from speechstream.tts.blockwise.acoustic import (
    ARCHITECTURE,
    FORMAT_KEYS,
    Acoustic,
    Plan,
    sub_frames,
)
from speechstream.tts.codec import CodecDecoder
from speechstream.text.en.phonemes import SYMBOLS, FrontEnd, Utterance
from speechstream.text.clauses import Clause
from speechstream.tts.voice import Controls, Spoken, VoiceInfo, find_speaker

PITCH_UNIT = 4.0  # semitones, and
ENERGY_UNIT = 6.0  # decibels: what 1 is to the acoustic model
LEAD_SUB_FRAMES = 10  # before the first sound of an utterance, at most: 100 ms
PAD_ID = 0  # the symbol of silence at both ends of an utterance


class Blockwise:
    """A voice from a bundle of `speechstream.export.acoustic`."""

    def __init__(self, folder: str | Path, threads: int = 1, device: str = "cpu") -> None:
        """Raises SpeechStreamError where the bundle is damaged or holds another kind of model."""
        model = bundle.load(folder)
        if model.architecture != ARCHITECTURE:
            raise SpeechStreamError(
                f"{folder} is a bundle for {model.task} ({model.architecture}), not a voice"
            )
        missing = [key for key in FORMAT_KEYS if key not in model.config]
        if missing or model.config["symbols"] != "".join(SYMBOLS)[: len(model.config["symbols"])]:
            raise SpeechStreamError(
                f"the voice {folder} was made for another version of the phonemes"
                + (f" (it lacks {', '.join(missing)})" if missing else "")
            )
        self.card, config = model.card, model.config
        self.sample_rate, self.frame_size = int(config["sample_rate"]), int(config["frame_size"])
        self.sub, self.blocks = int(config["sub"]), tuple(int(b) for b in config["blocks"])
        self.speakers = tuple(
            VoiceInfo(s["name"], "en-US", s.get("description", "")) for s in config["speakers"]
        )
        self.acoustic = Acoustic(model.path, self.sub, threads, device)
        self.codec = CodecDecoder(model.file("codec.onnx"), threads, device)
        if (self.codec.sample_rate, self.codec.frame_size) != (self.sample_rate, self.frame_size):
            raise SpeechStreamError(
                f"the voice {folder} is damaged: its codec is of another rate than its model"
            )
        self._front = {markup: FrontEnd(markup=markup) for markup in (True, False)}

    def utterances(self, clause: Clause, markup: bool) -> list[Utterance]:
        return self._front[markup](clause)

    def start(self, controls: Controls) -> "_Speaking":
        return _Speaking(self, find_speaker(self.speakers, controls.voice), controls)

    def plan(
        self, utterance: Utterance, speaker: int, controls: Controls
    ) -> tuple[Plan, np.ndarray]:
        """What is spoken and how long: the plan of the symbols with a silence at both ends, and sub-frames of each that
        make whole codec frames together."""
        ids = np.concatenate([[PAD_ID], utterance.ids, [PAD_ID]])
        plan = self.acoustic.plan(ids, speaker)
        pitch = np.pad(utterance.pitch + controls.pitch, 1, mode="edge") / PITCH_UNIT
        plan = Plan(
            plan.encodings,
            plan.log_durations,
            plan.pitch + pitch,
            plan.energy + controls.energy / ENERGY_UNIT,
        )
        counts = sub_frames(
            plan.log_durations, np.pad(utterance.speed * controls.speed, 1, mode="edge")
        )
        counts[0] = min(counts[0], LEAD_SUB_FRAMES)
        counts[-1] += -counts.sum() % self.sub
        return plan, counts


class _Speaking:
    """One stream of an embedded voice: the decoder's and the codec's states."""

    def __init__(self, voice: Blockwise, speaker: int, controls: Controls) -> None:
        self.voice, self.speaker, self.controls = voice, speaker, controls
        self._decoder, self._codec = voice.acoustic.init_state(), voice.codec.init_state()
        self._early = voice.codec.delay  # samples of the codec's delay that are still to be dropped
        self._block = 0

    def speak(self, utterance: Utterance) -> Spoken:
        plan, counts = self.voice.plan(utterance, self.speaker, self.controls)
        starts = np.cumsum(counts)[: len(utterance.phonemes) + 1] * (
            self.voice.frame_size / self.voice.sub / self.voice.sample_rate
        )
        return Spoken(starts, self._blocks(self.voice.acoustic.frames(plan, counts)))

    def rest(self) -> None:
        self._block = 0

    def finish(self) -> np.ndarray:
        silence = self.voice.acoustic.plan(np.array([PAD_ID]), self.speaker)
        frames = -(-self.voice.codec.delay // self.voice.frame_size)
        if not frames:
            return np.zeros(0, np.float32)
        x = self.voice.acoustic.frames(silence, np.array([frames * self.voice.sub]))
        return self._sound(x)[: self.voice.codec.delay]

    def _blocks(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        at, sizes = 0, self.voice.blocks
        while at < len(frames):
            size = sizes[min(self._block, len(sizes) - 1)]
            yield self._sound(frames[at : at + size])
            at, self._block = at + size, self._block + 1

    def _sound(self, frames: np.ndarray) -> np.ndarray:
        codes, self._decoder = self.voice.acoustic.step(frames[None], self._decoder)
        audio, self._codec = self.voice.codec.step(codes, self._codec)
        pcm = audio[0, 0]
        early = min(self._early, len(pcm))
        self._early -= early
        return pcm[early:]
