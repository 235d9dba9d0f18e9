"""CosyVoice as streams speak it: text, speech tokens, mel frames and sound, a block of tokens at a time.

The language model writes speech tokens (`writing`); as soon as there is a block of them and those that the flow looks ahead
to, the flow makes mel frames of it, and the vocoder sound, each from where it was before. In the mode "sentences" every
utterance begins anew behind the voice's prompt; in the mode "interleaved" a stream's whole text is one utterance of the
model, which speaks while it is still being written.

What is drawn is a function of the seed and of the place in the stream, so streams can be left, resumed, forked and taken back
to the sample. Words' times are estimates, see `_starts`.
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
from speechstream.nn.cosyvoice_config import CosyVoiceConfig, SpeechLmConfig
from speechstream.runtime.requests import Work
from speechstream.state import fields
from speechstream.text.clauses import Clause
from speechstream.text.rules import ReadingOptions
from speechstream.text.utterance import Utterance
from speechstream.tts.cosyvoice import requests, writing
from speechstream.tts.cosyvoice.network import (
    TOKENIZER,
    CosyVoiceNetwork,
    FlowMemory,
    VoicePrompt,
    read_config,
)
from speechstream.tts.cosyvoice.text import CosyVoiceFrontEnd
from speechstream.tts.cosyvoice.writing import Writing
from speechstream.tts.voice import Block, Controls, VoiceInfo, speaker_number

END_OF_PROMPT = "<|endofprompt|>"  # behind the instruction of a CosyVoice 3's prompt
SILENCE = np.zeros(0, np.float32)
Array = np.ndarray


def load(model: bundle.Bundle, threads: int = 1, device: str = "cpu") -> CosyVoiceSpeech:
    """Open a bundle of `speechstream.export.cosyvoice`."""
    return CosyVoiceSpeech(model, threads, device)


@dataclass(frozen=True)
class Sounding:
    """Speech that is being made."""

    writing: Writing
    tokens: Array  # (n,) int64 speech tokens that the flow has not taken
    memory: FlowMemory
    mel: Array  # (m, n_mels) frames that the vocoder has not finished
    vocoder: Any  # its state; its streams are the first axis, of length 1
    speaker: int
    frames: int = 0  # of speech, made by the flow
    samples: int = 0  # heard of them
    origin: int = 0  # of these, before the utterance that is spoken now
    solved: bool = False  # no frame follows


@dataclass(frozen=True)
class CosyVoiceState:
    """One stream of a CosyVoice."""

    utterances: int = 0  # begun so far
    symbols: int = 0  # of the utterance that is spoken; 0: none is
    sounding: Sounding | None = None


class _Reader:
    """The language model as `writing` asks for it."""

    def __init__(self, network: CosyVoiceNetwork) -> None:
        self.network, self.lm = network, network.lm

    def read(self, ids: Array, caches: Caches) -> requests.Read:
        return requests.Read(self.network, ids, caches)


class CosyVoiceSpeech:
    """A CosyVoice for the synthesizer."""

    phonetic = False

    def __init__(self, model: bundle.Bundle, threads: int = 1, device: str = "cpu") -> None:
        """Raises SpeechStreamError where the bundle is damaged, or the device or `tokenizers` is not to be had."""
        self.card, self.digest = model.card, model.digest
        self.config: CosyVoiceConfig = read_config(model)
        self.lm: SpeechLmConfig = self.config.lm
        self.sample_rate = self.config.sound.sample_rate
        self.network = CosyVoiceNetwork(model, self.config, threads, device)
        tokenizer = Tokenizer(Path(model.file(TOKENIZER)).read_text(encoding="utf-8"))
        if len(tokenizer) > self.lm.speech:
            raise SpeechStreamError(f"{model.path} is damaged: its tokenizer is of another model")
        self._end_of_prompt = tokenizer.id(END_OF_PROMPT)
        self._front = {markup: CosyVoiceFrontEnd(tokenizer, markup) for markup in (True, False)}
        name = f"CosyVoice {self.config.version}"
        self.speakers = tuple(
            VoiceInfo(n, self.config.language, name) for n in self.config.speakers
        )
        self._reader, self._vocoder = _Reader(self.network), self.network.vocoder.init_state()

    def utterances(
        self, clause: Clause, markup: bool, reading: ReadingOptions | None = None
    ) -> list[Utterance]:
        """The model reads numbers and capitals as it has learned: `reading` has no effect."""
        return self._front[markup](clause)

    def check_controls(self, controls: Controls) -> None:
        if controls.pitch or controls.energy or controls.speed != 1:
            raise ValueError(
                "a CosyVoice has no control of speed, pitch or energy; leave them as they are"
            )
        speaker_number(self.speakers, controls.voice)

    def init_state(self) -> CosyVoiceState:
        return CosyVoiceState()

    def begin(
        self, utterance: Utterance, controls: Controls, state: CosyVoiceState
    ) -> Work[CosyVoiceState]:
        now, number = state.sounding, state.utterances
        ids = self._front[True].encode(utterance.phonemes, continued=now is not None)
        text = np.array(ids, np.int64)
        state = replace(state, utterances=number + 1, symbols=len(utterance.phonemes))
        speaker = speaker_number(self.speakers, controls.voice)
        voice = self.network.voices[speaker]
        if self.config.mode == "interleaved":
            if now is None:
                begun = writing.interleaved(
                    self.lm, voice.text, voice.tokens, number, self._instruction(voice)
                )
                now = yield from self._sounding(begun, speaker)
            now = replace(now, writing=writing.told(self.lm, text, now.writing), origin=now.samples)
            return replace(state, sounding=now)
        if not len(text):
            return replace(state, symbols=0, sounding=None)
        begun = writing.sentence(self.lm, voice.text, voice.tokens, text, number)
        return replace(state, sounding=(yield from self._sounding(begun, speaker)))

    def speaking(self, state: CosyVoiceState) -> bool:
        return bool(state.symbols)

    def block(self, state: CosyVoiceState) -> Work[tuple[Block, CosyVoiceState]]:
        now = state.sounding
        if now is None or not state.symbols:
            raise ValueError("no utterance is spoken: begin one")
        pcm, now, more = yield from self._more(now)
        if more:
            return Block(pcm, np.zeros(0)), replace(state, sounding=now)
        block = Block(pcm, self._starts(state, now))
        over = now if self.config.mode == "interleaved" else None
        return block, replace(state, symbols=0, sounding=over)

    def rest(self, state: CosyVoiceState) -> CosyVoiceState:
        return state

    def finish(
        self, controls: Controls, state: CosyVoiceState
    ) -> Work[tuple[Array, CosyVoiceState]]:
        now = state.sounding
        if now is None:
            return SILENCE, state
        now = replace(now, writing=writing.closed(self.lm, now.writing))
        pcm, now, more = yield from self._more(now)
        return pcm, replace(state, sounding=now if more else None)

    def finishing(self, state: CosyVoiceState) -> bool:
        return state.sounding is not None

    def declared(self) -> Mapping[str, Any]:
        encoder = self.network.encoder.init_state()
        return {
            "": CosyVoiceState,
            "sounding.vocoder": self._vocoder,
            "sounding.memory.encoder": encoder,
        }

    def check_state(self, state: CosyVoiceState, utterance: Utterance | None) -> None:
        now, c = state.sounding, self.config
        if state.symbols != (0 if utterance is None else len(utterance.phonemes)):
            raise ValueError("its speech is of another utterance")
        if now is None:
            if state.symbols:
                raise ValueError("its speech is missing")
            return
        if not state.symbols and c.mode != "interleaved":
            raise ValueError("its speech is of no utterance")
        n, w, f = c.lm.network, now.writing, c.flow
        w.caches.check(n.layers, n.kv_heads, n.head_dim, n.context)
        most = {"unread": n.vocab_size, "text": n.vocab_size, "prompt": n.vocab_size}
        for name, a, rows in (
            *((k, getattr(w, k), v) for k, v in most.items()),
            ("recent", w.recent, c.lm.outputs),
            ("tokens", now.tokens, c.lm.speech_tokens),
        ):
            if a.dtype != np.int64 or a.ndim != 1 or len(a) > n.context:
                raise ValueError(f"its {name} are no tokens")
            if len(a) and not 0 <= a.min() <= a.max() < rows:
                raise ValueError(f"its {name} are tokens of another model")
        keys = f.rows, f.network.heads, f.slots, f.network.head_dim
        shapes = [keys, keys, (f.rows, f.convolution_numbers)]
        if len(now.memory.evaluations) != f.evaluations or any(
            a.shape != shape or a.dtype != np.float32
            for e in now.memory.evaluations
            for (_, a), shape in zip(fields(e), shapes)
        ):
            raise ValueError("its flow is of another size")
        if now.mel.ndim != 2 or now.mel.shape[1] != f.n_mels or now.mel.dtype != np.float32:
            raise ValueError("its mel frames are of another size")
        if now.speaker >= len(self.speakers) or now.origin > now.samples:
            raise ValueError("its speech does not add up")
        if now.samples > now.frames * c.sound.frame_size or len(now.mel) > now.frames:
            raise ValueError("its speech does not add up")

    def _instruction(self, voice: VoicePrompt) -> int:
        """How many of the prompt's text tokens tell how to speak, rather than what is said (CosyVoice 3)."""
        if self.config.version != 3 or self._end_of_prompt is None:
            return 0
        marks = np.flatnonzero(voice.text == self._end_of_prompt)
        return int(marks[0]) + 1 if len(marks) else 0

    def _sounding(self, begun: Writing, speaker: int) -> Work[Sounding]:
        """Speech behind a voice's prompt."""
        room = self.lm.network.context - len(begun.unread) - len(begun.text) - len(begun.prompt)
        if room < 2:
            raise SpeechStreamError(
                f"a text of {len(begun.unread)} tokens with its voice leaves no room in a context of "
                f"{self.lm.network.context}"
            )
        begun = replace(begun, most=min(begun.most, room)) if begun.final else begun
        primed = yield requests.Prime(self.network, speaker)
        mel = np.zeros((0, self.config.flow.n_mels), np.float32)
        return Sounding(begun, primed.tokens, primed.memory, mel, self._vocoder, speaker)

    def _more(self, now: Sounding) -> Work[tuple[Array, Sounding, bool]]:
        """Sound as soon as there is some, and whether more follows; nothing where more text is needed first."""
        e, held = self.config.encoder, self.config.sound.given_ahead
        while True:
            if len(now.mel) > held or now.solved:
                pcm, now = yield from self._heard(now)
                if len(pcm) or now.solved:
                    return pcm, now, not now.solved
            blocks = max(len(now.tokens) - e.lookahead, 0) // e.block
            if now.writing.over:
                now = yield from self._solved(now, len(now.tokens), last=True)
            elif blocks:
                now = yield from self._solved(now, blocks * e.block, last=False)
            elif writing.ready(now.writing):
                token, written = yield from writing.write(
                    self._reader, self.config.sampling, now.writing
                )
                tokens = now.tokens if token is None else np.append(now.tokens, token)
                now = replace(now, writing=written, tokens=tokens)
            else:
                return SILENCE, now, False

    def _solved(self, now: Sounding, count: int, last: bool) -> Work[Sounding]:
        """`count` speech tokens to mel frames; those of the voice's prompt are known and left out."""
        e, voice = self.config.encoder, self.network.voices[now.speaker]
        mel, memory = now.mel[:0], now.memory
        if count:
            size = -(-count // e.block) * e.block + e.lookahead
            given = now.tokens[:size]
            real = len(given)
            given = np.concatenate([given, np.zeros(size - real, np.int64)])
            mel, memory = yield requests.Solve(self.network, given, real, now.memory, voice)
        known = max(len(voice.mel) - now.memory.frames, 0)
        mel = mel[known:]
        return replace(
            now,
            tokens=now.tokens[count:],
            memory=memory,
            mel=np.concatenate([now.mel, mel]),
            frames=now.frames + len(mel),
            solved=last,
        )

    def _heard(self, now: Sounding) -> Work[tuple[Array, Sounding]]:
        """The vocoder's samples of the frames that wait, but for those it looks ahead to; at the end, of all."""
        sound, delay = self.config.sound, self.network.delay
        count, real = len(now.mel) - sound.given_ahead, len(now.mel)
        mel = now.mel
        if now.solved:  # a lagging vocoder gives its last samples with a frame that is none
            count = real + bool(delay)
            mel = np.pad(mel, ((0, count + sound.given_ahead - real), (0, 0)))
        if not real:
            return SILENCE, now
        pcm, state = yield requests.Decode(self.network, mel, real, now.vocoder)
        total = now.frames * sound.frame_size
        first = (
            now.frames - real
        ) * sound.frame_size  # of the stream, that the vocoder was asked for
        pcm = pcm[max(delay - first, 0) :][: total - now.samples]
        return pcm, replace(
            now, mel=now.mel[min(count, real) :], vocoder=state, samples=now.samples + len(pcm)
        )

    def _starts(self, state: CosyVoiceState, now: Sounding) -> Array:
        """Times of the letters, once the utterance is over. The model does not say where it is in the text: its letters
        are taken to be equally long."""
        seconds = (now.samples - now.origin) / self.sample_rate
        return np.linspace(0, seconds, state.symbols + 1)
