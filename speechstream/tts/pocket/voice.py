"""pocket-tts as streams speak it: text, tokens, latents and sound, one block after the other.

An utterance begins with the voice's keys and values, which the bundle holds, reads its text, and makes one latent after
the other until the model says that it has ended, as in the model's own package; each has a codec stream of its own.

The noise is a function of the utterance's number in its stream and of the frame: what follows from a state is determined,
so streams can be left, resumed, forked and taken back to the sample. Words' times are estimates, see `_starts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from speechstream import bundle
from speechstream.errors import SpeechStreamError
from speechstream.lm.appending import Caches
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.pocket_config import PocketSampling
from speechstream.runtime.requests import Work
from speechstream.state import bounded
from speechstream.text.clauses import Clause
from speechstream.text.rules import ReadingOptions
from speechstream.text.utterance import Utterance
from speechstream.tts.pocket import requests
from speechstream.tts.pocket.network import (
    TOKENIZER,
    Frame,
    PocketNetwork,
    check_caches,
    read_config,
)
from speechstream.tts.pocket.text import PocketFrontEnd
from speechstream.tts.voice import Block, Controls, VoiceInfo, speaker_number

UNKNOWN = -1  # frames left, while the end of speech has not been seen


def load(model: bundle.Bundle, threads: int = 1, device: str = "cpu") -> PocketSpeech:
    """Open a bundle of `speechstream.export.pocket`."""
    return PocketSpeech(model, threads, device)


@dataclass(frozen=True)
class Speaking:
    """An utterance that is being spoken."""

    caches: Caches  # of the voice, the text and the frames but the last
    latent: np.ndarray  # (latent_dim,) the last frame, which is read next
    ready: np.ndarray  # (k, latent_dim) frames for the codec that it has not decoded
    codec: Any  # the codec's state; its streams are the first axis, of length 1
    made: int  # frames so far
    heard: int  # frames that were decoded
    most: int  # frames at most
    tail: int  # frames after the end of speech
    symbols: int  # of the utterance
    left: int = bounded(UNKNOWN, 1000, default=UNKNOWN)  # frames that still follow
    over: bool = False  # no frame follows


@dataclass(frozen=True)
class PocketState:
    """One stream of a pocket-tts."""

    utterances: int = 0  # begun so far
    blocks: int = 0  # since the stream last had to wait for text
    spoken: Speaking | None = None


class PocketSpeech:
    """A pocket-tts for the synthesizer."""

    phonetic = False

    def __init__(self, model: bundle.Bundle, threads: int = 1, device: str = "cpu") -> None:
        """Raises SpeechStreamError where the bundle is damaged, or the device or `tokenizers` is not to be had."""
        self.card, self.digest = model.card, model.digest
        self.config = config = read_config(model)
        self.sampling: PocketSampling = config.sampling
        self.sample_rate = config.network.codec.sample_rate
        self.network = PocketNetwork(model, config.network, threads, device)
        if len(self.network.voices) != len(config.speakers):
            raise SpeechStreamError(
                f"{model.path} is damaged: it names {len(config.speakers)} speakers and holds "
                f"{len(self.network.voices)}"
            )
        tokenizer = Tokenizer(Path(model.file(TOKENIZER)).read_text(encoding="utf-8"))
        self._front = {markup: PocketFrontEnd(tokenizer, markup) for markup in (True, False)}
        self.speakers = tuple(VoiceInfo(n, config.language, "pocket-tts") for n in config.speakers)
        fade = round(self.sampling.fade_in * self.sample_rate)
        self._fade = np.linspace(0, 1, fade, dtype=np.float32)
        self._codec = self.network.codec.init_state()  # one value for all that begin

    def utterances(
        self, clause: Clause, markup: bool, reading: ReadingOptions | None = None
    ) -> list[Utterance]:
        """The model reads numbers and capitals as it has learned: `reading` has no effect."""
        return self._front[markup](clause)

    def check_controls(self, controls: Controls) -> None:
        if controls.pitch or controls.energy or controls.speed != 1:
            raise ValueError(
                "a pocket-tts has no control of speed, pitch or energy; leave them as they are"
            )
        speaker_number(self.speakers, controls.voice)

    def init_state(self) -> PocketState:
        return PocketState()

    def noise(self, utterance: int, frame: int) -> np.ndarray:
        """(latent_dim,) float32 of one frame: the same whenever it is asked for."""
        size = self.config.network.latent_dim
        if not self.sampling.temperature:
            return np.zeros(size, np.float32)
        drawn = np.random.Generator(np.random.Philox(key=utterance, counter=[0, 0, 0, frame]))
        scale = np.float32(self.sampling.temperature**0.5)
        return drawn.standard_normal(size, np.float32) * scale

    def begin(
        self, utterance: Utterance, controls: Controls, state: PocketState
    ) -> Work[PocketState]:
        tokens = self._front[True].encode(utterance.phonemes)
        number = state.utterances
        state = replace(state, utterances=number + 1, spoken=None)
        if not tokens:
            return state
        voice = self.network.voices[speaker_number(self.speakers, controls.voice)]
        c = self.config.network
        room = c.backbone.context - len(voice) - len(tokens) - 1
        if room < 1:
            raise SpeechStreamError(
                f"a text of {len(tokens)} tokens after a voice of {len(voice)} frames does not fit a context of "
                f"{c.backbone.context}"
            )
        ids = (*tokens, c.bos)
        frame, caches = yield requests.Read(self.network, ids, self.noise(number, 0), voice)
        new = Speaking(
            caches,
            frame.next,
            np.zeros((0, c.latent_dim), np.float32),
            self._codec,
            made=0,
            heard=0,
            most=min(self.config.most_frames(len(tokens)), room),
            tail=self.sampling.tail(len(utterance.phonemes.split())),
            symbols=len(utterance.phonemes),
        )
        return replace(state, spoken=self._made(new, frame, caches))

    def speaking(self, state: PocketState) -> bool:
        return state.spoken is not None

    def block(self, state: PocketState) -> Work[tuple[Block, PocketState]]:
        now = state.spoken
        if now is None:
            raise ValueError("no utterance is spoken: begin one")
        blocks = self.config.blocks
        want = blocks[min(state.blocks, len(blocks) - 1)]
        while len(now.ready) < want and not now.over:
            noise = self.noise(state.utterances - 1, now.made)
            frame, caches = yield requests.Next(self.network, now.latent, noise, now.caches)
            now = self._made(now, frame, caches)
        pcm, codec = yield requests.Decode(self.network, now.ready, now.codec)
        pcm = self._faded(pcm, now.heard)
        now = replace(now, ready=now.ready[:0], codec=codec, heard=now.made)
        block = Block(pcm, self._starts(now))
        return block, replace(state, blocks=state.blocks + 1, spoken=None if now.over else now)

    def rest(self, state: PocketState) -> PocketState:
        return replace(state, blocks=0)

    def finish(
        self, controls: Controls, state: PocketState
    ) -> Work[tuple[np.ndarray, PocketState]]:
        yield from ()
        return np.zeros(0, np.float32), state

    def finishing(self, state: PocketState) -> bool:
        return False

    def declared(self) -> Mapping[str, Any]:
        return {"": PocketState, "spoken.codec": self._codec}

    def check_state(self, state: PocketState, utterance: Utterance | None) -> None:
        now = state.spoken
        if (utterance is None) != (now is None):
            raise ValueError("its latents are of no utterance")
        if now is None:
            return
        check_caches(now.caches, self.config.network)
        size, context = self.config.network.latent_dim, self.config.network.backbone.context
        kinds = now.latent.dtype, now.ready.dtype
        if (
            now.latent.shape != (size,)
            or now.ready.shape[1:] != (size,)
            or kinds != (np.float32,) * 2
        ):
            raise ValueError("its latents are of another size")
        if utterance is not None and now.symbols != len(utterance.phonemes):
            raise ValueError("its latents are of another utterance")
        if len(now.ready) != now.made - now.heard or not 0 < now.made < now.most or now.over:
            raise ValueError("its latents do not add up")
        if not state.utterances or now.most + len(now.caches) - now.made >= context:
            raise ValueError("its latents do not add up")

    def _made(self, now: Speaking, frame: Frame, caches: Caches) -> Speaking:
        """After another frame: has the speech ended, and how many still follow?"""
        s, left, made = self.sampling, now.left, now.made + 1
        if left == UNKNOWN and frame.ended > s.eos_threshold and now.made >= s.min_frames:
            left = now.tail
        return replace(
            now,
            caches=caches,
            latent=frame.next,
            ready=np.concatenate([now.ready, frame.latent[None]]),
            made=made,
            left=left - 1 if left > 0 else left,
            over=left == 0 or made >= now.most,
        )

    def _faded(self, pcm: np.ndarray, heard: int) -> np.ndarray:
        """Sound that begins after so many frames: a fresh codec begins with a small step, heard as a click."""
        at = heard * self.config.network.codec.frame_size
        fade = self._fade[at : at + len(pcm)]
        pcm = np.array(pcm, np.float32)
        pcm[: len(fade)] *= fade
        return pcm

    def _starts(self, now: Speaking) -> np.ndarray:
        """Times of the letters, once the utterance's length is known. The model does not say where it is in the text:
        its letters are taken to be equally long."""
        if not now.over:
            return np.zeros(0)
        seconds = now.made * self.config.network.codec.frame_size / self.sample_rate
        return np.linspace(0, seconds, now.symbols + 1)
