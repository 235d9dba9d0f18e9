"""The embedded voices: text encoder, block decoder, depth-wise codes and codec, one block after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechstream import bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.runtime.requests import Work
from speechstream.text.clauses import Clause
from speechstream.text.languages import front_end
from speechstream.text.rules import ReadingOptions
from speechstream.text.utterance import Utterance
from speechstream.tts.blockwise import requests
from speechstream.tts.blockwise.acoustic import (
    Acoustic,
    Plan,
    VoiceConfig,
    sub_frames,
)
from speechstream.tts.codec import CodecDecoder
from speechstream.tts.codec_step import CodecStep
from speechstream.tts.encoded import ENERGY_UNIT, PAD_ID, PITCH_UNIT, Encoding
from speechstream.tts.voice import Block, Controls, VoiceInfo, speaker_number

LEAD_SUB_FRAMES = 10  # before the first sound of an utterance, at most: 100 ms


def load(model: bundle.Bundle, threads: int = 1, device: str = "cpu") -> Blockwise:
    """Open a bundle of `speechstream.export.acoustic`."""
    return Blockwise(model, threads, device)


@dataclass(frozen=True)
class BlockwiseState:
    """One stream of an embedded voice. The networks' states have the stream as their first axis, of length 1."""

    decoder: Any
    codec: Any
    early: int  # samples of the codec's delay that are still to be dropped
    blocks: int = 0  # since the stream last had to wait for text
    plan: Plan | None = None  # of the utterance that is spoken
    at: int = 0  # its next frame
    starts: np.ndarray | None = None  # (N + 1,) of its symbols, until they are given out


class Blockwise:
    """A voice from a bundle of `speechstream.export.acoustic`."""

    phonetic = True

    def __init__(self, model: bundle.Bundle, threads: int = 1, device: str = "cpu") -> None:
        """Raises SpeechStreamError where the bundle is damaged, or the device is not to be had."""
        folder = model.path
        self.card, self.digest = model.card, model.digest
        try:
            config = read(VoiceConfig, model.config)
        except ValueError as error:
            raise SpeechStreamError(f"the voice {folder} is of another version: {error}") from error
        self._language, self._front = config.language, front_end(config.language)
        if not "".join(self._front.symbols).startswith(config.symbols):
            raise SpeechStreamError(
                f"the voice {folder} was made for another version of the phonemes"
            )
        self.sample_rate, self.frame_size = config.sample_rate, config.frame_size
        self.subframes, self.blocks = config.subframes, config.blocks
        self.speakers = tuple(
            VoiceInfo(s.name, s.language or config.language, s.description) for s in config.speakers
        )
        self._louder = tuple(s.energy_db for s in config.speakers)  # dB
        self.acoustic = Acoustic(model.path, self.subframes, threads, device)
        self.codec = CodecDecoder(model.file("codec.onnx"), threads, device)
        if (self.codec.sample_rate, self.codec.frame_size) != (self.sample_rate, self.frame_size):
            raise SpeechStreamError(
                f"the voice {folder} is damaged: its codec is of another rate than its model"
            )
        # one value for all streams that have said nothing
        self._start = BlockwiseState(
            self.acoustic.init_state(), self.codec.init_state(), self.codec.delay
        )

    def utterances(
        self, clause: Clause, markup: bool, reading: ReadingOptions | None = None
    ) -> list[Utterance]:
        return front_end(self._language, markup, reading)(clause)

    def check_controls(self, controls: Controls) -> None:
        speaker_number(self.speakers, controls.voice)

    def init_state(self) -> BlockwiseState:
        return self._start

    def begin(
        self, utterance: Utterance, controls: Controls, state: BlockwiseState
    ) -> Work[BlockwiseState]:
        ids = np.concatenate([[PAD_ID], self._front.encode(utterance.phonemes), [PAD_ID]])
        speaker = speaker_number(self.speakers, controls.voice)
        encoding: Encoding = yield requests.Plan(self.acoustic, ids, speaker)
        plan, counts = self.plan(encoding, utterance, controls)
        starts = np.cumsum(counts)[: len(utterance.phonemes) + 1] * (
            self.frame_size / self.subframes / self.sample_rate
        )
        return replace(state, plan=plan, at=0, starts=starts) if len(plan) else state

    def speaking(self, state: BlockwiseState) -> bool:
        return state.plan is not None

    def block(self, state: BlockwiseState) -> Work[tuple[Block, BlockwiseState]]:
        plan = state.plan
        if plan is None:
            raise ValueError("no utterance is spoken: begin one")
        end = state.at + self.blocks[min(state.blocks, len(self.blocks) - 1)]
        starts = np.zeros(0) if state.starts is None else state.starts
        pcm, state = yield from self._sound(plan.frames(state.at, end), state)
        over = end >= len(plan)
        return Block(pcm, starts), replace(
            state,
            blocks=state.blocks + 1,
            plan=None if over else plan,
            at=0 if over else end,
            starts=None,
        )

    def rest(self, state: BlockwiseState) -> BlockwiseState:
        return replace(state, blocks=0)

    def finish(
        self, controls: Controls, state: BlockwiseState
    ) -> Work[tuple[np.ndarray, BlockwiseState]]:
        frames = -(-self.codec.delay // self.frame_size)
        if not frames:
            return np.zeros(0, np.float32), state
        speaker = speaker_number(self.speakers, controls.voice)
        silence: Encoding = yield requests.Plan(self.acoustic, np.array([PAD_ID]), speaker)
        plan = self.acoustic.plan(silence, np.array([frames * self.subframes]))
        pcm, state = yield from self._sound(plan.frames(0, frames), state)
        return pcm[: self.codec.delay], state

    def plan(
        self, encoding: Encoding, utterance: Utterance, controls: Controls
    ) -> tuple[Plan, np.ndarray]:
        """What is spoken and how long: the plan of the symbols with a silence at both ends, and sub-frames of each that
        make whole codec frames together."""
        pitch = np.pad(utterance.pitch + controls.pitch, 1, mode="edge") / PITCH_UNIT
        louder = self._louder[speaker_number(self.speakers, controls.voice)]
        encoding = replace(
            encoding,
            pitch=encoding.pitch + pitch,
            energy=encoding.energy + (controls.energy + louder) / ENERGY_UNIT,
        )
        counts = sub_frames(
            encoding.log_durations, np.pad(utterance.speed * controls.speed, 1, mode="edge")
        )
        counts[0] = min(counts[0], LEAD_SUB_FRAMES)
        counts[-1] += -counts.sum() % self.subframes
        return self.acoustic.plan(encoding, counts), counts

    def finishing(self, state: BlockwiseState) -> bool:
        return False

    def declared(self) -> Mapping[str, Any]:
        return {"": BlockwiseState, "decoder": self._start.decoder, "codec": self._start.codec}

    def check_state(self, state: BlockwiseState, utterance: Utterance | None) -> None:
        if state.early > self.codec.delay:
            raise ValueError("more of its sound is early than the codec's delay")
        if (utterance is None) != (state.plan is None):
            raise ValueError("its plan is of no utterance")
        if state.plan is None or utterance is None:
            return
        plan, count = state.plan, len(utterance.phonemes) + 2
        self._front.encode(utterance.phonemes)
        frames = len(plan)
        shapes = (frames * self.subframes,), (frames * self.subframes, 4)
        if (plan.index.shape, plan.scalars.shape, plan.subframes) != (*shapes, self.subframes):
            raise ValueError("its plan has no whole frames")
        kinds = plan.encodings.dtype, plan.scalars.dtype, plan.index.dtype
        if kinds != (np.float32, np.float32, np.int64) or plan.encodings.shape[:-1] != (count,):
            raise ValueError("its plan is of another utterance")
        if plan.index.min() < 0 or plan.index.max() >= count or state.at >= frames:
            raise ValueError("its plan does not add up")
        if state.starts is not None and state.starts.shape != (count - 1,):
            raise ValueError("its plan's times do not add up")

    def _sound(
        self, frames: np.ndarray, state: BlockwiseState
    ) -> Work[tuple[np.ndarray, BlockwiseState]]:
        codes, decoder = yield requests.AcousticStep(self.acoustic, frames, state.decoder)
        audio, codec = yield CodecStep(self.codec, codes, state.codec)
        pcm = audio[0, 0]
        early = min(state.early, len(pcm))
        state = replace(state, decoder=decoder, codec=codec, early=state.early - early)
        return pcm[early:], state
