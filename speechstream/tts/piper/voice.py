"""Piper voices as streams speak them.

Voices of a language with a front end of ours are given its phonemes, turned into espeak-ng's way of writing them:
nothing under the GPL is needed, and numbers, homographs and markup are read as by the embedded voices. Other languages
are phonemised by espeak-ng, where the user has installed it (`speechstream.tts.piper.espeak`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from speechstream.runtime.requests import Work
from speechstream.text.clauses import Clause
from speechstream.text.languages import front_end, speaks
from speechstream.text.rules import ReadingOptions
from speechstream.text.utterance import Utterance
from speechstream.tts.piper.espeak import EspeakFrontEnd
from speechstream.tts.piper.network import BLOCK, FIRST_BLOCK, Latents, PiperVoice
from speechstream.tts.reading import MARKS
from speechstream.tts.voice import Block, Controls, VoiceInfo, speaker_number


def load(path: str | Path, threads: int = 1, device: str = "cpu") -> PiperSpeech:
    """Open a folder of `speechstream.tts.piper.split`, or a voice's .onnx beside its .json."""
    return PiperSpeech(path, threads, device)


@dataclass(frozen=True)
class PiperState:
    """One stream of a Piper voice. Its noise is in the latents, so what follows from a state is determined."""

    first: bool = True  # the next block is wanted soon
    latents: Latents | None = None  # of the utterance that is spoken
    at: int = 0  # its next frame
    starts: np.ndarray | None = (
        None  # (N + 1,) int64 frames of its symbols, until they are given out
    )


@dataclass(frozen=True)
class Plan:
    """Phoneme ids to latents. Answered alone: the graph takes one utterance at a time."""

    piper: PiperVoice
    ids: tuple[int, ...]
    speed: float
    speaker: int
    key = None
    rank = 0

    def run(self) -> Latents:
        return self.piper.latents(self.ids, speed=self.speed, speaker=self.speaker)

    def run_many(self, requests: Sequence[Plan]) -> list[Latents]:
        return [r.run() for r in requests]


@dataclass(frozen=True)
class Decode:
    """Frames `start` to `stop` of latents to sound. Answered alone: the graph takes one utterance at a time."""

    piper: PiperVoice
    latents: Latents
    start: int
    stop: int
    key = None
    rank = 1

    def run(self) -> np.ndarray:
        return self.piper.decode(self.latents, self.start, self.stop)

    def run_many(self, requests: Sequence[Decode]) -> list[np.ndarray]:
        return [r.run() for r in requests]


class PiperSpeech:
    """A Piper voice for the synthesizer."""

    phonetic = True

    def __init__(self, path: str | Path, threads: int = 1, device: str = "cpu") -> None:
        """`path` is a folder of `speechstream.tts.piper.split`, or a voice's .onnx beside its .json (which needs
        `onnx`). Raises SpeechStreamError where it cannot be used, or the device is not to be had."""
        self.piper = PiperVoice.load(path, threads, device)
        config = self.piper.config
        self.sample_rate, self.digest = self.piper.sample_rate, self.piper.digest
        self.card = {"name": config.get("dataset", Path(path).stem)}
        language = config.get("language", {}).get("code") or config.get("espeak", {}).get(
            "voice", "en-us"
        )
        language = language.replace("_", "-")
        quality = config.get("audio", {}).get("quality", "")
        ids = self.piper.speakers
        names = sorted(ids, key=lambda n: ids[n]) or [
            str(i) for i in range(config.get("num_speakers", 1))
        ]
        if len(names) == 1:
            names = [config.get("dataset") or Path(path).stem]
        self.speakers = tuple(VoiceInfo(n, language, f"Piper {quality}".strip()) for n in names)
        self._language, self._front = language, self._front_end(language, True)

    def _front_end(self, language: str, markup: bool, reading: ReadingOptions | None = None) -> Any:
        if speaks(language):
            return front_end(language, markup, reading)
        return EspeakFrontEnd(self.piper.phonemize, markup)

    def utterances(
        self, clause: Clause, markup: bool, reading: ReadingOptions | None = None
    ) -> list[Utterance]:
        return self._front_end(self._language, markup, reading)(clause)

    def check_controls(self, controls: Controls) -> None:
        if controls.pitch or controls.energy:
            raise ValueError("a Piper voice has no control of pitch or energy; leave them at 0")
        speaker_number(self.speakers, controls.voice)

    def init_state(self) -> PiperState:
        return PiperState()

    def begin(
        self, utterance: Utterance, controls: Controls, state: PiperState
    ) -> Work[PiperState]:
        ids, owner = self._ids(utterance)
        speeds = [s for s, c in zip(utterance.speed, utterance.phonemes) if c not in MARKS]
        speed = controls.speed * (float(np.mean(speeds)) if speeds else 1.0)
        speaker = speaker_number(self.speakers, controls.voice)
        latents = cast(
            Latents, (yield Plan(self.piper, tuple(ids), min(max(speed, 0.1), 10.0), speaker))
        )
        ends = np.cumsum(latents.durations)
        # a symbol begins where the last id of those before it ends; one without ids has no length
        count = len(utterance.phonemes)
        last = np.searchsorted(np.asarray(owner), np.arange(count + 1), side="left")
        starts = np.where(last > 0, ends[np.maximum(last - 1, 0)], 0)
        return replace(state, latents=latents, at=0, starts=starts) if latents.frames else state

    def speaking(self, state: PiperState) -> bool:
        return state.latents is not None

    def block(self, state: PiperState) -> Work[tuple[Block, PiperState]]:
        latents = state.latents
        if latents is None:
            raise ValueError("no utterance is spoken: begin one")
        stop = min(state.at + (FIRST_BLOCK if state.first else BLOCK), latents.frames)
        pcm = cast(np.ndarray, (yield Decode(self.piper, latents, state.at, stop)))
        starts = np.zeros(0)
        if state.starts is not None:
            starts = state.starts * (len(pcm) / (stop - state.at)) / self.sample_rate
        over = stop >= latents.frames
        return Block(pcm, starts), PiperState(False, None if over else latents, 0 if over else stop)

    def rest(self, state: PiperState) -> PiperState:
        return replace(state, first=True)

    def finish(self, controls: Controls, state: PiperState) -> Work[tuple[np.ndarray, PiperState]]:
        yield from ()
        return np.zeros(0, np.float32), state

    def finishing(self, state: PiperState) -> bool:
        return False

    def declared(self) -> Mapping[str, Any]:
        return {"": PiperState}

    def check_state(self, state: PiperState, utterance: Utterance | None) -> None:
        if (utterance is None) != (state.latents is None):
            raise ValueError("its latents are of no utterance")
        if state.latents is None or utterance is None:
            return
        if state.latents.z.ndim != 3 or state.at >= state.latents.frames:
            raise ValueError("its latents do not add up")
        if state.starts is not None and state.starts.shape != (len(utterance.phonemes) + 1,):
            raise ValueError("its latents' times do not add up")

    def _ids(self, utterance: Utterance) -> tuple[list[int], list[int]]:
        """Phoneme ids, and the symbol that each belongs to (-1 before the first)."""
        symbols = self._front.ipa(utterance.phonemes)
        ids, owner = self.piper.phoneme_ids("")[:2], [-1, -1]  # beginning and its pad
        for i, symbol in enumerate(symbols):
            inner = self.piper.phoneme_ids(symbol, strict=False)[2:-1]
            ids += inner
            owner += [i] * len(inner)
        ids += self.piper.phoneme_ids("")[2:]
        owner += [len(symbols)] * (len(ids) - len(owner))
        return ids, owner
