"""A third family, which needs no edit anywhere else: loudness written as letters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from speechstream import Recognizer, bundle, models
from speechstream.asr.family import NOTHING, Mode
from speechstream.errors import SpeechStreamError
from speechstream.events import Final, Word

FRAME = 320  # samples, 20 ms
LETTERS = "abcdefghij"


@dataclass(frozen=True)
class Quantise:
    """A request: the letter of each frame (n, 320)."""

    frames: np.ndarray

    @property
    def key(self) -> Any:
        return "quantise", len(self.frames)

    def run(self) -> np.ndarray:
        return self.run_many([self])[0]

    def run_many(self, requests: Any) -> list[np.ndarray]:
        power = np.stack([r.frames for r in requests]).astype(np.float64) ** 2
        level = 10 * np.log10(power.mean(-1) + 1e-9)
        return list(np.clip((level + 90) / 9, 0, 9).astype(np.int64))


@dataclass(frozen=True)
class Letters:
    waiting: np.ndarray
    letters: tuple[int, ...] = ()
    final: bool = False


class Loudness:
    """A word each half second: its letters are the frames' levels."""

    latencies = (100, 200)
    batch_size = 1

    def mode(self, latency_ms: int | None) -> Mode:
        if latency_ms is not None and latency_ms not in self.latencies:
            raise ValueError(f"latency_ms must be one of 100, 200, got {latency_ms!r}")
        return Mode(((latency_ms or 200) // 20,))

    def open(self, mode: Mode) -> Letters:
        return Letters(np.zeros(0, np.float32))

    def feed(self, x: np.ndarray, segment: Letters, mode: Mode) -> Any:
        waiting = np.concatenate([segment.waiting, x])
        letters, size = segment.letters, FRAME * (mode.chunks[0] or 1)
        while len(waiting) >= size:
            found = yield Quantise(waiting[:size].reshape(-1, FRAME))
            letters, waiting = (*letters, *found.tolist()), waiting[size:]
        return Letters(waiting, letters)

    def finish(self, segment: Letters, mode: Mode, rest: Any = NOTHING) -> Any:
        waiting = np.concatenate([segment.waiting, rest])
        waiting = np.pad(waiting, (0, -len(waiting) % FRAME))
        found = (yield Quantise(waiting.reshape(-1, FRAME))).tolist() if len(waiting) else []
        return Letters(NOTHING, (*segment.letters, *found), True)

    def close(self, segment: Letters) -> None:
        pass

    def _words(self, segment: Letters) -> list[str]:
        text = "".join(LETTERS[i] for i in segment.letters)
        return [text[i : i + 25] for i in range(0, len(text), 25)]

    def text(self, segment: Letters) -> tuple[str, str]:
        words = self._words(segment)
        stable = len(words) if segment.final else max(len(words) - 1, 0)
        return " ".join(words[:stable]), " ".join(words[stable:])

    def words(self, segment: Letters, spoken_from: float) -> list[Word]:
        stable = self.text(segment)[0].split()
        return [Word(w, i / 2, i / 2 + len(w) / 50, 1.0) for i, w in enumerate(stable)]

    def resident(self) -> Loudness:
        return self

    def read(self, segment: Letters) -> Letters:
        return segment

    def write(self, segment: Letters, mode: Mode) -> Letters:
        return segment

    def identity(self) -> dict[str, Any]:
        return {"family": "loudness"}

    def declared(self, mode: Mode) -> dict[str, Any]:
        return {"": Letters}

    def check(self, segment: Letters, samples: int, mode: Mode) -> None:
        if any(i >= len(LETTERS) for i in segment.letters):
            raise ValueError("its letters are out of range")


def load(
    b: bundle.Bundle, engine: str, device: str, threads: int, decoder: Any, beam: Any
) -> Loudness:
    return Loudness()


@pytest.fixture(scope="module")
def asr(tmp_path_factory):
    models.register(models.Architecture("loudness", "asr", f"{__name__}:load"))
    folder = tmp_path_factory.mktemp("loudness")
    (folder / "letters.txt").write_text(LETTERS)
    card = {"name": "loudness", "licence": "none"}
    bundle.write(folder, "asr", "loudness", {}, card, ["letters.txt"])
    return Recognizer.load(folder)


def text(events):
    return [e.text for e in events if isinstance(e, Final)]


def test_it_transcribes_streams_pools_forks_and_snapshots(asr, fixtures_dir):
    recording = fixtures_dir / "austen_0880.flac"
    transcript = asr.transcribe(recording)
    assert len(transcript.text) > 100 and set(transcript.text) <= set(LETTERS + " ")
    import soundfile as sf

    x, rate = sf.read(recording, dtype="float32")
    rng = np.random.default_rng(0)
    stream, events, at, forked = asr.stream(200, rate), [], 0, None
    while at < len(x):
        n = int(rng.integers(1, 9000))
        events += stream.push(x[at : at + n])
        at += n
        if forked is None and at > len(x) // 2:
            forked = stream.fork(), asr.resume(stream.to_bytes()), list(events), at
    events += stream.finish()
    assert " ".join(text(events)) == transcript.text
    twin, moved, before, at = forked
    for other in (twin, moved):
        assert before + other.push(x[at:]) + other.finish() == events
    pool = asr.pool(3)
    sids = [pool.open(200, rate) for _ in range(3)]
    for sid in sids:
        pool.push(sid, x)
        pool.finish(sid)
    assert all(said == events for said in pool.step().values())


def test_what_it_does_not_know_is_said(asr):
    with pytest.raises(ValueError, match="one of 100, 200"):
        asr.stream(320)
    with pytest.raises(SpeechStreamError, match="no architecture for tts"):
        models.find("loudness", "tts")
    assert replace(Letters(np.zeros(0)), letters=(3,)).letters == (3,)
