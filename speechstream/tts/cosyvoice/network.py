"""Run an exported CosyVoice with numpy and onnxruntime alone.

    network = CosyVoiceNetwork(bundle, config)
    logits, caches = network.read_one(ids, caches)               # the language model
    mel, memory = network.solve([tokens], [memory], ...)         # speech tokens to mel frames, whole blocks
    audio, state = network.decode(mel, lengths, state)           # mel frames to sound

The graphs come from `speechstream.export.cosyvoice`. The flow's solver runs here: its network is a graph of one evaluation,
and the caches of each evaluation are part of a stream's memory (`nn.flow`). All that a stream remembers is a value.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from speechstream import bundle, state as states
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.lm.appending import AppendingGraph, Caches
from speechstream.nn.cosyvoice_config import CosyVoiceConfig, SpeechLmConfig
from speechstream.nn.flow_solver import evaluation_times, solve
from speechstream.runtime.graph import Graph
from speechstream.state import cache

ARCHITECTURE = "cosyvoice"
LM, WEIGHTS = "lm.onnx", "lm.bin"
TOKENS, ESTIMATOR, ESTIMATOR_WEIGHTS, VOCODER = (
    "tokens.onnx",
    "estimator.onnx",
    "estimator.bin",
    "vocoder.onnx",
)
VOICES, TOKENIZER = "voices.safetensors", "tokenizer.json"
PARTS = ("text", "tokens", "mel", "speaker")  # of a voice, in VOICES
Array = np.ndarray


@dataclass(frozen=True)
class VoicePrompt:
    """A voice: a recording that is continued, or (nothing in the first three) a speaker alone."""

    text: Array  # (t,) int64 tokens of what it says
    tokens: Array  # (p,) int64 speech tokens
    mel: Array  # (repeats * p, n_mels) float32
    speaker: Array  # (n_mels,) float32, as the flow takes it


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of the flow's network remembers of a stream: `rows` are 2 with guidance."""

    keys: Array = cache()  # (rows, heads, slots, head_dim)
    values: Array = cache()  # (rows, heads, slots, head_dim)
    tails: Array = cache()  # (rows, n)


@dataclass(frozen=True)
class FlowMemory:
    """What a stream of the flow remembers, its token encoder included."""

    encoder: Any  # the graph's state of one stream
    evaluations: tuple[Evaluation, ...]
    frames: int  # so far, the prompt's included


@dataclass(frozen=True)
class Primed:
    """A voice's beginning, common to all its streams: the whole blocks of its prompt are read."""

    memory: FlowMemory
    tokens: Array  # (n,) of the prompt that are still to be read


class CosyVoiceNetwork:
    """The graphs and the voices of a bundle."""

    def __init__(
        self, model: bundle.Bundle, config: CosyVoiceConfig, threads: int = 1, device: str = "cpu"
    ) -> None:
        """Raises SpeechStreamError where a file cannot be used."""
        self.config, self.path = config, model.path
        for weights in (WEIGHTS, ESTIMATOR_WEIGHTS):
            model.file(weights)  # listed, and so checked; the graph opens it
        self.writer = AppendingGraph(
            model.file(LM), config.lm.network.layers, ("logits",), threads, device
        )
        self.encoder, self.estimator, self.vocoder = (
            Graph(model.file(name), threads, device) for name in (TOKENS, ESTIMATOR, VOCODER)
        )
        about = self.vocoder.about
        sound = config.sound
        known = about.get("sample_rate"), about.get("frame_size"), about.get("given_ahead")
        if known != (sound.sample_rate, sound.frame_size, sound.given_ahead):
            raise SpeechStreamError(f"{model.path} is damaged: its vocoder is of another model")
        shapes = {i.name: i.shape for i in self.estimator.session.get_inputs()}
        n = config.flow.network
        wanted = [n.heads, config.flow.slots, n.head_dim]
        if shapes.get("keys", [])[1:] != wanted:
            raise SpeechStreamError(f"{model.path} is damaged: its estimator is of another size")
        self.delay = int(about.get("delay", 0))  # samples by which the vocoder lags
        self.voices = self._voices(model)
        self._primed: dict[int, Primed] = {}
        self._lock = threading.Lock()

    @property
    def lm(self) -> SpeechLmConfig:
        return self.config.lm

    # the language model

    def read_one(self, ids: Array, caches: Caches) -> tuple[Array, Caches]:
        """The logits (outputs,) after ids (n,), read after what `caches` hold."""
        return self._read(np.asarray(ids, np.int64)[None], [caches])[0]

    def read_many(self, ids: Sequence[int], caches: Sequence[Caches]) -> list[tuple[Array, Caches]]:
        """The same of several streams, a single id each."""
        return self._read(np.asarray(ids, np.int64)[:, None], caches)

    def _read(self, ids: Array, caches: Sequence[Caches]) -> list[tuple[Array, Caches]]:
        c, count = self.config.lm.network, ids.shape[1]
        longest = max(map(len, caches)) + count
        if longest > c.context:
            raise SpeechStreamError(
                f"a text and its speech of {longest} tokens do not fit a context of {c.context}; end the stream "
                "and begin another"
            )
        feeds = {
            "tokens": ids,
            "rows": np.arange(count - 1, ids.size, count),
            **self.writer.positions(caches, count, c.rope, c.head_dim),
        }
        if len(caches) == 1:
            (logits,), one = self.writer.run(feeds, caches[0], count)
            return [(logits[0], one)]
        (logits,), new = self.writer.run_together(feeds, caches)
        return list(zip(logits, new))

    # speech tokens to mel

    def init_memory(self) -> FlowMemory:
        """A stream of the flow at its beginning."""
        f, n = self.config.flow, self.config.flow.network
        keys = np.zeros((f.rows, n.heads, f.slots, n.head_dim), np.float32)
        tails = np.zeros((f.rows, f.convolution_numbers), np.float32)
        return FlowMemory(
            self.encoder.init_state(), (Evaluation(keys, keys, tails),) * f.evaluations, 0
        )

    def primed(self, speaker: int) -> Primed:
        """The beginning of a voice's streams, solved when it is first asked for."""
        with self._lock:
            if speaker not in self._primed:
                voice, e = self.voices[speaker], self.config.encoder
                count = max(len(voice.tokens) - e.lookahead, 0) // e.block * e.block
                memory = self.init_memory()
                if count:
                    given = voice.tokens[: count + e.lookahead]
                    memory = self.solve([given], [len(given)], [memory], [voice])[0][1]
                self._primed[speaker] = Primed(memory, voice.tokens[count:])
            return self._primed[speaker]

    def solve(
        self,
        tokens: Sequence[Array],
        lengths: Sequence[int],
        memories: Sequence[FlowMemory],
        voices: Sequence[VoicePrompt],
    ) -> list[tuple[Array, FlowMemory]]:
        """Speech tokens (T + lookahead,) of each stream, T whole blocks, to mel frames (repeats * T, n_mels).

        lengths: how many of the tokens are real; those ahead come again with the next chunk.
        """
        c, f = self.config, self.config.flow
        encoder = states.stack([m.encoder for m in memories])
        feeds = {"tokens": np.stack(tokens), "lengths": np.asarray(lengths, np.int64)}
        out, encoder = self.encoder.step(feeds, encoder)
        mu = out["mu"]
        streams, count = mu.shape[:2]
        ends = np.minimum(np.asarray(lengths) * c.encoder.repeats, count)
        begun = np.array([m.frames for m in memories])
        prompts = np.zeros((streams, count, f.n_mels), np.float32)
        for row, m, voice in zip(prompts, memories, voices):
            part = voice.mel[m.frames : m.frames + count]
            row[: len(part)] = part
        speakers = np.stack([v.speaker for v in voices])[:, None].repeat(count, 1)
        given = np.concatenate([mu, prompts, speakers], 2)
        # the conditions and, for guidance, none: rows of one batch
        fixed = np.stack([given, np.zeros_like(given)][: f.rows], 1)
        fixed = fixed.reshape(streams * f.rows, count, -1).astype(np.float32)
        frames, real = (np.repeat(a, f.rows).astype(np.int64) for a in (begun, ends))
        times = evaluation_times(f.solver_times, f.solver)
        made: list[list[Array]] = []

        def velocity(x: Array, e: int) -> Array:
            parts = zip(
                *((v.keys, v.values, v.tails) for v in (m.evaluations[e] for m in memories))
            )
            keys, values, tails = (p[0] if streams == 1 else np.concatenate(p) for p in parts)
            out, _ = self.estimator.step(
                {
                    "x": np.repeat(x, f.rows, 0),
                    "fixed": fixed,
                    "time": np.array([times[e]], np.float32),
                    "frames": frames,
                    "lengths": real,
                    "keys": keys,
                    "values": values,
                    "tails": tails,
                }
            )
            made.append([out["new_keys"], out["new_values"], out["new_tails"]])
            v = out["velocity"].reshape(streams, f.rows, count, -1)
            if f.rows == 1:
                return np.asarray(v[:, 0])
            guided: Array = v[:, 0] + np.float32(f.guidance) * (v[:, 0] - v[:, 1])
            return guided

        noise = np.stack([self.noise(m.frames, count) for m in memories])
        mel = solve(velocity, noise, f.solver_times, f.solver).astype(np.float32)
        found = []
        for i, m in enumerate(memories):
            own = slice(i * f.rows, (i + 1) * f.rows)
            kept = tuple(
                Evaluation(*(a if streams == 1 else a[own].copy() for a in each)) for each in made
            )
            memory = FlowMemory(states.select(encoder, i), kept, m.frames + int(ends[i]))
            found.append((mel[i, : ends[i]], memory))
        return found

    def noise(self, first: int, count: int) -> Array:
        """(count, n_mels) float32 standard normal of the frames from `first` on: the same in all streams, as in the
        reference, so that a voice's prompt is solved once."""
        block, size = self.config.flow.windows.block, self.config.flow.n_mels
        parts = [
            np.random.Generator(
                np.random.Philox(key=self.config.sampling.seed, counter=[0, 0, 0, n])
            ).standard_normal((block, size), np.float32)
            for n in range(first // block, -(-(first + count) // block))
        ]
        return np.concatenate(parts)[first % block :][:count]

    # mel to sound

    def decode(self, mel: Array, lengths: Array, state: Any) -> tuple[Array, Any]:
        """mel (B, T + given_ahead, n_mels), of which `lengths` (B,) frames are real, to samples (B, T * frame_size)."""
        out, state = self.vocoder.step(
            {"mel": np.ascontiguousarray(mel), "lengths": np.asarray(lengths, np.int64)}, state
        )
        return out["audio"], state

    def _voices(self, model: bundle.Bundle) -> list[VoicePrompt]:
        c, found = self.config, list[VoicePrompt]()
        try:
            tensors = safetensors.numpy.load_file(model.file(VOICES))
            for n in range(len(c.speakers)):
                found.append(VoicePrompt(*(tensors[f"{n}.{part}"] for part in PARTS)))
        except (KeyError, safetensors.SafetensorError) as error:
            raise SpeechStreamError(
                f"{model.path} is damaged: its voices are incomplete"
            ) from error
        for name, voice in zip(c.speakers, found):
            try:
                check_voice(voice, c)
            except ValueError as error:
                raise SpeechStreamError(
                    f"{model.path} is damaged, at the voice {name[:40]!r}: {error}"
                ) from error
        return found


def check_voice(voice: VoicePrompt, c: CosyVoiceConfig) -> None:
    """Raises ValueError for the voice of another model."""
    mels, size = c.encoder.n_mels, len(voice.tokens)
    kinds = [a.dtype for a in (voice.text, voice.tokens, voice.mel, voice.speaker)]
    if kinds != [np.int64, np.int64, np.float32, np.float32] or voice.text.ndim != 1:
        raise ValueError("its arrays are of other types")
    if voice.tokens.shape != (size,) or voice.mel.shape != (size * c.encoder.repeats, mels):
        raise ValueError(
            f"{size} speech tokens need {size * c.encoder.repeats} frames of {mels}; got {voice.mel.shape}"
        )
    if voice.speaker.shape != (mels,):
        raise ValueError(f"its speaker's vector has the shape {voice.speaker.shape}, not ({mels},)")
    for ids, most in ((voice.text, c.lm.network.vocab_size), (voice.tokens, c.lm.speech_tokens)):
        if ids.size and not 0 <= ids.min() <= ids.max() < most:
            raise ValueError(f"its tokens must be 0 to {most - 1}")
    if not (np.isfinite(voice.mel).all() and np.isfinite(voice.speaker).all()):
        raise ValueError("it holds a number that is not finite")
    if len(voice.text) + size > c.lm.network.context // 2:
        raise ValueError(f"it leaves no room in a context of {c.lm.network.context} tokens")


def read_config(model: bundle.Bundle) -> CosyVoiceConfig:
    """A bundle's configuration. Raises SpeechStreamError where it is of another version."""
    try:
        return read(CosyVoiceConfig, model.config)
    except ValueError as error:
        raise SpeechStreamError(f"the voice {model.path} is of another version: {error}") from error
