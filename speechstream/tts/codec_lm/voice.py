"""A codec language model as streams speak it: phonemes, frames of codes and sound, one block after the other.

The text encoder reads a clause at a time; then the language model makes one frame of codes after the other and moves
its pointer in the text until the last phoneme has ended. It and the codec carry their state from clause to clause.

What is drawn is a function of the seed, the utterance's number in its stream and of the frame or the phoneme: what
follows from a state is determined, so streams can be left, resumed, forked and taken back to the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechstream import bundle
from speechstream.errors import SpeechStreamError
from speechstream.runtime.requests import Work
from speechstream.text.clauses import Clause
from speechstream.text.languages import front_end
from speechstream.text.rules import ReadingOptions
from speechstream.text.utterance import Utterance
from speechstream.tts.codec import CodecDecoder
from speechstream.tts.codec_lm import requests
from speechstream.tts.codec_lm.network import CODEC, CodecLmNetwork, Made, Told, read_config
from speechstream.tts.codec_lm.pointer import (
    CANDIDATES,
    MEDIAN,
    Pointer,
    first_frame,
    longest,
    walk,
)
from speechstream.tts.codec_lm.text import expected_durations, symbol_rows
from speechstream.tts.codec_step import CodecStep
from speechstream.tts.encoded import ENERGY_UNIT, PAD_ID, PITCH_UNIT, Encoding
from speechstream.tts.voice import Block, Controls, VoiceInfo, speaker_number

NOTHING = -1  # in the place of a code: there is no frame before
FRAMES_S, PHONEMES_S = 0, 1  # what a random stream is for


def load(model: bundle.Bundle, threads: int = 1, device: str = "cpu") -> CodecLmSpeech:
    """Open a bundle of `speechstream.export.codec_lm`."""
    return CodecLmSpeech(model, threads, device)


@dataclass(frozen=True)
class Speaking:
    """An utterance that is being spoken."""

    rows: np.ndarray  # (N, rows) float32: what is told of its symbols, with a silence at both ends
    pointer: Pointer  # after the next frame
    symbol: np.ndarray  # (subframes,) int64: the next frame's
    elapsed: np.ndarray  # (subframes,) int64
    starts: np.ndarray  # (k,) float64: seconds at which the next symbols begin, not yet given out
    made: int = 0  # frames so far


@dataclass(frozen=True)
class CodecLmState:
    """One stream of a codec language model. The networks' states have the stream as their first axis, of length 1."""

    model: Any
    codec: Any
    codes: np.ndarray  # (levels,) int64: of the last frame
    early: int  # samples of the codec's delay that are still to be dropped
    utterances: int = 0  # begun so far
    blocks: int = 0  # since the stream last had to wait for text
    spoken: Speaking | None = None


class CodecLmSpeech:
    """A codec language model for the synthesizer."""

    phonetic = True

    def __init__(self, model: bundle.Bundle, threads: int = 1, device: str = "cpu") -> None:
        """Raises SpeechStreamError where the bundle is damaged, or the device is not to be had."""
        self.card, self.digest = model.card, model.digest
        self.config = config = read_config(model)
        self._language, self._front = config.language, front_end(config.language)
        if not "".join(self._front.symbols).startswith(config.symbols):
            raise SpeechStreamError(
                f"the voice {model.path} was made for another version of the phonemes"
            )
        self.sample_rate, self.frame_size = config.sample_rate, config.frame_size
        self.blocks, self.sampling = config.blocks, config.sampling
        self.speakers = tuple(
            VoiceInfo(s.name, s.language or config.language, s.description) for s in config.speakers
        )
        self.network = CodecLmNetwork(model, config, threads, device)
        self.codec = codec = CodecDecoder(model.file(CODEC), threads, device)
        found = codec.sample_rate, codec.frame_size, codec.levels, codec.bins
        if found != (self.sample_rate, self.frame_size, config.levels, config.codebook_size):
            raise SpeechStreamError(
                f"the voice {model.path} is damaged: its codec is of another rate or size than its model"
            )
        # one value for all streams that have said nothing
        nothing = np.full(config.levels, NOTHING, np.int64)
        self._start = CodecLmState(
            self.network.init_state(), codec.init_state(), nothing, codec.delay
        )
        self._silent = np.zeros((config.levels, config.codebook_size), np.float32)

    def utterances(
        self, clause: Clause, markup: bool, reading: ReadingOptions | None = None
    ) -> list[Utterance]:
        return front_end(self._language, markup, reading)(clause)

    def check_controls(self, controls: Controls) -> None:
        speaker_number(self.speakers, controls.voice)

    def init_state(self) -> CodecLmState:
        return self._start

    def noise(self, utterance: int, frame: int) -> np.ndarray:
        """(levels, codebook_size) float32 that draws the codes of one frame: the same whenever it is asked for."""
        if not self.sampling.temperature:
            return self._silent
        drawn = self._random(FRAMES_S, utterance, frame).random(self._silent.shape, np.float32)
        gumbel = -np.log(-np.log(np.clip(drawn, 1e-7, 1 - 1e-7)))
        return np.float32(self.sampling.temperature) * gumbel

    def threshold(self, utterance: int, symbol: int) -> float:
        """That ends a phoneme, see `pointer`: the same whenever it is asked for."""
        if not self.sampling.pace:
            return MEDIAN
        drawn = self._random(PHONEMES_S, utterance, symbol).random()
        return MEDIAN + self.sampling.pace * (drawn - MEDIAN)

    def begin(
        self, utterance: Utterance, controls: Controls, state: CodecLmState
    ) -> Work[CodecLmState]:
        ids = np.concatenate([[PAD_ID], self._front.encode(utterance.phonemes), [PAD_ID]])
        speaker = self.config.text_speakers[speaker_number(self.speakers, controls.voice)]
        encoding: Encoding = yield requests.Encode(self.network, ids, speaker)
        pointer, aligned = first_frame(self.config.subframes)
        rows = symbol_rows(_controlled(encoding, utterance, controls))
        spoken = Speaking(
            rows, pointer, aligned.symbol, aligned.elapsed, aligned.begins.astype(float)
        )
        return replace(state, utterances=state.utterances + 1, spoken=spoken)

    def speaking(self, state: CodecLmState) -> bool:
        return state.spoken is not None

    def block(self, state: CodecLmState) -> Work[tuple[Block, CodecLmState]]:
        spoken, model, codes = state.spoken, state.model, state.codes
        if spoken is None:
            raise ValueError("no utterance is spoken: begin one")
        want = self.blocks[min(state.blocks, len(self.blocks) - 1)]
        number, frames, on = state.utterances - 1, list[np.ndarray](), True
        while on and len(frames) < want:
            told = self._told(spoken, codes, self.noise(number, spoken.made))
            made, model = yield requests.Next(self.network, told, model)
            codes = made.codes
            frames.append(codes)
            spoken, on = self._moved(spoken, made, number)
        pcm, state = yield from self._sound(np.stack(frames, 1), state)
        return Block(pcm, spoken.starts), replace(
            state,
            model=model,
            codes=codes,
            blocks=state.blocks + 1,
            spoken=replace(spoken, starts=np.zeros(0)) if on else None,
        )

    def rest(self, state: CodecLmState) -> CodecLmState:
        return replace(state, blocks=0)

    def finish(
        self, controls: Controls, state: CodecLmState
    ) -> Work[tuple[np.ndarray, CodecLmState]]:
        """The codec's delay of sound, after which the silence that was said last goes on."""
        frames = -(-self.codec.delay // self.frame_size)
        if not frames or state.early == self.codec.delay:  # nothing was said
            return np.zeros(0, np.float32), state
        pcm, state = yield from self._sound(np.repeat(state.codes[:, None], frames, 1), state)
        return pcm[: self.codec.delay], state

    def finishing(self, state: CodecLmState) -> bool:
        return False

    def declared(self) -> Mapping[str, Any]:
        return {"": CodecLmState, "model": self._start.model, "codec": self._start.codec}

    def check_state(self, state: CodecLmState, utterance: Utterance | None) -> None:
        c, now = self.config, state.spoken
        if state.early > self.codec.delay:
            raise ValueError("more of its sound is early than the codec's delay")
        if state.codes.shape != (c.levels,) or state.codes.dtype != np.int64:
            raise ValueError("its codes are of another codec")
        if state.codes.min() < NOTHING or state.codes.max() >= c.codebook_size:
            raise ValueError("its codes are of another codec")
        if (utterance is None) != (now is None):
            raise ValueError("its frames are of no utterance")
        if now is None or utterance is None:
            return
        count, p = len(utterance.phonemes) + 2, now.pointer
        self._front.encode(utterance.phonemes)
        if now.rows.shape != (count, c.rows) or now.rows.dtype != np.float32:
            raise ValueError("what it tells is of another utterance")
        whole = (now.symbol, now.elapsed)
        if any(a.shape != (c.subframes,) or a.dtype != np.int64 for a in whole):
            raise ValueError("its next frame is not one of this voice")
        if now.symbol.min() < 0 or now.symbol.max() >= count or now.elapsed.min() < 1:
            raise ValueError("its next frame is of another utterance")
        if not 0 <= p.symbol < count or p.elapsed < 0 or not 0 <= p.alive <= 1:
            raise ValueError("its place in the text does not add up")
        if now.made < 0 or state.utterances < 1 or len(now.starts) >= count:
            raise ValueError("its place in the text does not add up")

    def _told(self, spoken: Speaking, codes: np.ndarray, noise: np.ndarray) -> Told:
        last = len(spoken.rows) - 1
        ahead = np.minimum(spoken.symbol[-1] + np.arange(CANDIDATES), last)
        rows = spoken.rows
        lasted = int(spoken.elapsed[-1])
        return Told(rows[spoken.symbol], spoken.elapsed, codes, rows[ahead], lasted, noise)

    def _moved(self, spoken: Speaking, made: Made, number: int) -> tuple[Speaking, bool]:
        """After a frame: the next one, and whether there is one."""
        most = longest(expected_durations(spoken.rows))
        pointer, aligned = walk(
            spoken.pointer, made.hazards, most, lambda symbol: self.threshold(number, symbol)
        )
        done, second = spoken.made + 1, self.frame_size / self.sample_rate
        begins = (done + aligned.begins / self.config.subframes) * second
        spoken = replace(
            spoken, pointer=pointer, starts=np.concatenate([spoken.starts, begins]), made=done
        )
        if not len(aligned.symbol):
            return spoken, False
        return replace(spoken, symbol=aligned.symbol, elapsed=aligned.elapsed), True

    def _random(self, use: int, utterance: int, number: int) -> np.random.Generator:
        key = self.sampling.seed + (utterance << 64)
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, use, number]))

    def _sound(
        self, codes: np.ndarray, state: CodecLmState
    ) -> Work[tuple[np.ndarray, CodecLmState]]:
        audio, codec = yield CodecStep(self.codec, codes[None], state.codec)
        pcm = audio[0, 0]
        early = min(state.early, len(pcm))
        return pcm[early:], replace(state, codec=codec, early=state.early - early)


def _controlled(encoding: Encoding, utterance: Utterance, controls: Controls) -> Encoding:
    """Speed, pitch and energy as they are asked for."""
    speed = np.pad(utterance.speed * controls.speed, 1, mode="edge")
    pitch = np.pad(utterance.pitch + controls.pitch, 1, mode="edge")
    return Encoding(
        encoding.encodings,
        (encoding.log_durations - np.log(speed)).astype(np.float32),
        (encoding.pitch + pitch / PITCH_UNIT).astype(np.float32),
        (encoding.energy + controls.energy / ENERGY_UNIT).astype(np.float32),
    )
