"""A CSM as streams speak it: text, tokens, frames of codes and sound, one block after the other.

The model continues a conversation. The voice's recording, with its text, is the turn before: its keys and values are in the
bundle. An utterance reads its text as the next turn and writes one frame of codes after the other until it writes the one that
ends it: the backbone the first code, the depth decoder the others. Each utterance has a codec stream of its own.

What is drawn is a function of the utterance's number in its stream, of the frame and of the level: streams can be left,
resumed, forked and taken back to the sample. Words' times are estimates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from speechstream import bundle
from speechstream.errors import SpeechStreamError
from speechstream.lm.appending import Caches
from speechstream.lm.tokens import Tokenizer
from speechstream.runtime.requests import Work
from speechstream.text.clauses import Clause
from speechstream.text.rules import ReadingOptions
from speechstream.text.utterance import Utterance
from speechstream.tts.codec_step import CodecStep
from speechstream.tts.csm import requests
from speechstream.tts.csm.network import TOKENIZER, CsmNetwork, check_caches, choose, read_config
from speechstream.tts.csm.text import CsmFrontEnd
from speechstream.tts.voice import Block, Controls, VoiceInfo, speaker_number

TOKENS_PER_S, SPARE_S = 2.0, 3.0  # an utterance lasts at most tokens / 2 + 3 seconds


def load(model: bundle.Bundle, threads: int = 1, device: str = "cpu") -> CsmSpeech:
    """Open a bundle of `speechstream.export.csm`."""
    return CsmSpeech(model, threads, device)


@dataclass(frozen=True)
class Speaking:
    """An utterance that is being spoken."""

    caches: Caches  # of the voice, the text and all frames so far
    logits: np.ndarray  # (vocab_size,) of the next frame's first code
    hidden: np.ndarray  # (dim,) for its other levels
    ready: np.ndarray  # (k, levels) int64: frames that the codec has not decoded
    codec: Any  # the codec's state; its streams are the first axis, of length 1
    made: int  # frames so far
    most: int  # frames at most
    symbols: int  # of the utterance
    over: bool = False  # no frame follows


@dataclass(frozen=True)
class CsmState:
    """One stream of a CSM."""

    utterances: int = 0  # begun so far
    blocks: int = 0  # since the stream last had to wait for text
    spoken: Speaking | None = None


class CsmSpeech:
    """A CSM for the synthesizer."""

    phonetic = False

    def __init__(self, model: bundle.Bundle, threads: int = 1, device: str = "cpu") -> None:
        """Raises SpeechStreamError where the bundle is damaged, or the device or `tokenizers` is not to be had."""
        self.card, self.digest = model.card, model.digest
        self.config = config = read_config(model)
        self.sampling, self.sample_rate = config.sampling, config.network.sample_rate
        self.network = CsmNetwork(model, config.network, threads, device)
        if len(self.network.voices) != len(config.speakers):
            raise SpeechStreamError(
                f"{model.path} is damaged: it names {len(config.speakers)} speakers and holds {len(self.network.voices)}"
            )
        tokenizer = Tokenizer(Path(model.file(TOKENIZER)).read_text(encoding="utf-8"))
        self._front = {
            markup: CsmFrontEnd(tokenizer, config.network, markup) for markup in (True, False)
        }
        self.speakers = tuple(VoiceInfo(n, config.language, "CSM") for n in config.speakers)
        self._codec = self.network.codec.init_state()  # one value for all that begin

    def utterances(
        self, clause: Clause, markup: bool, reading: ReadingOptions | None = None
    ) -> list[Utterance]:
        """The model reads numbers and capitals as it has learned: `reading` has no effect."""
        return self._front[markup](clause)

    def check_controls(self, controls: Controls) -> None:
        if controls.pitch or controls.energy or controls.speed != 1:
            raise ValueError(
                "a CSM has no control of speed, pitch or energy; leave them as they are"
            )
        speaker_number(self.speakers, controls.voice)

    def init_state(self) -> CsmState:
        return CsmState()

    def noise(self, utterance: int, frame: int) -> np.ndarray:
        """(levels, bins) float32 that draws the codes of one frame: the same whenever it is asked for."""
        c, s = self.config.network, self.sampling
        heat = np.full((c.levels, 1), s.depth_temperature, np.float32)
        heat[0] = s.temperature
        if not heat.any():
            return np.zeros((c.levels, c.bins), np.float32)
        drawn = np.random.Generator(np.random.Philox(key=utterance, counter=[0, 0, 0, frame]))
        uniform = drawn.random((c.levels, c.bins), np.float32)
        return heat * -np.log(-np.log(np.clip(uniform, 1e-7, 1 - 1e-7)))

    def begin(self, utterance: Utterance, controls: Controls, state: CsmState) -> Work[CsmState]:
        tokens = self._front[True].encode(utterance.phonemes)
        state = replace(state, utterances=state.utterances + 1, spoken=None)
        if not tokens:
            return state
        voice = self.network.voices[speaker_number(self.speakers, controls.voice)]
        c = self.config.network
        room = c.backbone.context - len(voice) - len(tokens) - 1
        if room < 1:
            raise SpeechStreamError(
                f"a text of {len(tokens)} tokens after a voice of {len(voice)} positions does not fit a context of "
                f"{c.backbone.context}"
            )
        logits, hidden, caches = yield requests.ReadText(self.network, tuple(tokens), voice)
        most = math.ceil((len(tokens) / TOKENS_PER_S + SPARE_S) * c.frame_rate)
        new = Speaking(
            caches,
            logits,
            hidden,
            np.zeros((0, c.levels), np.int64),
            self._codec,
            made=0,
            most=min(most, room),
            symbols=len(utterance.phonemes),
        )
        return replace(state, spoken=new)

    def speaking(self, state: CsmState) -> bool:
        return state.spoken is not None

    def block(self, state: CsmState) -> Work[tuple[Block, CsmState]]:
        now = state.spoken
        if now is None:
            raise ValueError("no utterance is spoken: begin one")
        blocks = self.config.blocks
        want = blocks[min(state.blocks, len(blocks) - 1)]
        while len(now.ready) < want and not now.over:
            now = yield from self._frame(now, self.noise(state.utterances - 1, now.made))
        pcm, codec = np.zeros(0, np.float32), now.codec
        if len(now.ready):
            audio, codec = yield CodecStep(self.network.codec, now.ready.T[None], now.codec)
            pcm = np.array(audio[0, 0], np.float32)
        now = replace(now, ready=now.ready[:0], codec=codec)
        block = Block(pcm, self._starts(now))
        return block, replace(state, blocks=state.blocks + 1, spoken=None if now.over else now)

    def _frame(self, now: Speaking, noise: np.ndarray) -> Work[Speaking]:
        """After another frame, or none where it is the one that ends the speech."""
        c, s = self.config.network, self.sampling
        first = choose(now.logits, noise[0], s.top_k, c.bins)
        codes = yield requests.Levels(self.network, now.hidden, first, noise[1:], s.depth_top_k)
        if (codes[:-1] == c.end).all():  # the last level is not asked, as in the reference
            return replace(now, over=True)
        made = now.made + 1
        ready = np.concatenate([now.ready, codes[None]])
        if made >= now.most:
            return replace(now, ready=ready, made=made, over=True)
        logits, hidden, caches = yield requests.ReadFrame(self.network, codes, now.caches)
        return replace(now, caches=caches, logits=logits, hidden=hidden, ready=ready, made=made)

    def rest(self, state: CsmState) -> CsmState:
        return replace(state, blocks=0)

    def finish(self, controls: Controls, state: CsmState) -> Work[tuple[np.ndarray, CsmState]]:
        yield from ()
        return np.zeros(0, np.float32), state

    def finishing(self, state: CsmState) -> bool:
        return False

    def declared(self) -> Mapping[str, Any]:
        return {"": CsmState, "spoken.codec": self._codec}

    def check_state(self, state: CsmState, utterance: Utterance | None) -> None:
        now, c = state.spoken, self.config.network
        if (utterance is None) != (now is None):
            raise ValueError("its frames are of no utterance")
        if now is None:
            return
        check_caches(now.caches, c)
        shapes = now.logits.shape, now.hidden.shape, now.ready.shape[1:]
        if shapes != ((c.depth.vocab_size,), (c.backbone.dim,), (c.levels,)):
            raise ValueError("its frames are of another size")
        kinds = now.logits.dtype, now.hidden.dtype, now.ready.dtype
        if kinds != (np.float32, np.float32, np.int64):
            raise ValueError("its frames are of another type")
        if now.ready.size and not 0 <= now.ready.min() <= now.ready.max() < c.bins:
            raise ValueError("its codes are none of its codec's")
        if utterance is not None and now.symbols != len(utterance.phonemes):
            raise ValueError("its frames are of another utterance")
        if not len(now.ready) <= now.made < now.most or now.over or not state.utterances:
            raise ValueError("its frames do not add up")
        if now.most + len(now.caches) - now.made >= c.backbone.context:
            raise ValueError("its frames do not add up")

    def _starts(self, now: Speaking) -> np.ndarray:
        """Times of the letters, once the utterance's length is known. The model does not say where it is in the text:
        its letters are taken to be equally long."""
        if not now.over:
            return np.zeros(0)
        seconds = now.made * self.config.network.frame_size / self.sample_rate
        return np.linspace(0, seconds, now.symbols + 1)
