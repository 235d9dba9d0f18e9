"""Piper voices, decoded block by block.

A sentence's latents are made at once, then turned into sound in windows. A window's ends are wrong by what they cannot
see, so each is decoded with LEFT_CONTEXT and RIGHT_CONTEXT frames around it that are thrown away: what remains is the
sound of the whole to about 80 dB, against audible clicks at 8 frames a side.

    voice = PiperVoice.load("joe/")                      # a folder of speechstream.tts.piper.split, or the .onnx itself
    for block in voice.stream(voice.phoneme_ids("həlˈoʊ wˈɜːld.")):
        speaker.write(block.pcm)

Phonemes come from the caller (IPA, as espeak-ng writes it) or, where the user has installed `espeakng-loader` or
`piper-phonemize` (espeak-ng is GPL-3.0, so neither is a dependency), from `phonemize`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechstream.errors import SpeechStreamError
from speechstream.runtime.session import open_session
from speechstream.tts.piper.espeak import phonemize

LEFT_CONTEXT, RIGHT_CONTEXT = 29, 24  # frames of the decoder's reach that are heard
FIRST_BLOCK, BLOCK = 24, 96  # frames a block: a short first one, for an early start
PAD, BOS, EOS = "_", "^", "$"


@dataclass(frozen=True)
class PiperBlock:
    """A stretch of sound: mono float32 samples, and at which sample of the utterance it begins."""

    pcm: np.ndarray
    start: int


@dataclass(frozen=True)
class Latents:
    """What the first half of a voice makes of phonemes: all that the decoder needs, and the timing."""

    z: np.ndarray  # (1, C, T) float32
    others: tuple[np.ndarray, ...]  # the speaker's conditioning where there is one
    durations: np.ndarray  # (ids,) int64 frames of each phoneme id

    @property
    def frames(self) -> int:
        return int(self.z.shape[-1])


class PiperVoice:
    """A Piper voice in two halves. Threads may share it: it holds nothing of an utterance."""

    def __init__(self, folder: str | Path, threads: int = 1, device: str = "cpu") -> None:
        """`folder` holds encoder.onnx, decoder.onnx, config.json. Raises SpeechStreamError where one is missing,
        or the device is not to be had."""
        folder = Path(folder)
        for name in ("encoder.onnx", "decoder.onnx", "config.json"):
            if not (folder / name).is_file():
                raise SpeechStreamError(
                    f"{folder} is no converted Piper voice: {name} is missing; convert the voice "
                    f"with python -m speechstream.tts.piper.split VOICE.onnx FOLDER"
                )
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._encoder, self._decoder = (
            open_session(folder / f"{n}.onnx", threads, device) for n in ("encoder", "decoder")
        )
        self._others = [
            o.name for o in self._encoder.get_outputs() if o.name not in ("z", "durations")
        ]
        sha = hashlib.sha256()
        for name in ("config.json", "encoder.onnx", "decoder.onnx"):
            sha.update((folder / name).read_bytes())
        self.digest = sha.hexdigest()
        self.sample_rate: int = self.config["audio"]["sample_rate"]
        self.speakers: dict[str, int] = self.config.get("speaker_id_map") or {}
        self._ids: dict[str, list[int]] = self.config["phoneme_id_map"]

    @classmethod
    def load(cls, path: str | Path, threads: int = 1, device: str = "cpu") -> PiperVoice:
        """Load a converted folder, or split a voice's .onnx on the fly (which needs the `onnx` package)."""
        if Path(path).is_dir():
            return cls(path, threads, device)
        from speechstream.tts.piper.split import convert_piper  # needs onnx

        with tempfile.TemporaryDirectory(prefix="speechstream-piper-") as folder:
            return cls(convert_piper(path, folder), threads, device)

    def phonemize(self, text: str) -> str:
        """Text to IPA in the voice's language. Raises SpeechStreamError where no phonemiser is installed."""
        return phonemize(text, self.config.get("espeak", {}).get("voice", "en-us"))

    def phoneme_ids(self, phonemes: str | Iterable[str], strict: bool = True) -> list[int]:
        """IPA (a string, or symbols) to ids: beginning, each symbol followed by a pad, end.

        Raises ValueError for a symbol that the voice does not know; with strict=False it is left out with a warning.
        """
        ids = [*self._ids[BOS], *self._ids[PAD]]
        for given in phonemes:
            symbols = [given] if given in self._ids else unicodedata.normalize("NFD", given)
            for symbol in symbols:
                if symbol not in self._ids:
                    message = f"this voice has no phoneme {symbol!r} (U+{ord(symbol[0]):04X})"
                    if strict:
                        raise ValueError(f"{message}; its phonemes are {''.join(self._ids)}")
                    warnings.warn(message, stacklevel=2)
                    continue
                ids += [*self._ids[symbol], *self._ids[PAD]]
        return ids + self._ids[EOS]

    def latents(
        self,
        ids: Sequence[int],
        speed: float = 1.0,
        speaker: str | int | None = None,
        noise: float | None = None,
        duration_noise: float | None = None,
    ) -> Latents:
        """The first half: phoneme ids to latents. `speed` 2 is twice as fast; `noise` varies the sound and
        `duration_noise` the rhythm (0 is deterministic, None the voice's own). Raises ValueError for wrong controls."""
        if not len(ids):
            raise ValueError("expected phoneme ids; got none")
        if not 0.1 <= speed <= 10:
            raise ValueError(f"speed must be between 0.1 and 10; got {speed}")
        inference = self.config.get("inference", {})
        scales = [
            inference.get("noise_scale", 0.667) if noise is None else noise,
            inference.get("length_scale", 1.0) / speed,
            inference.get("noise_w", 0.8) if duration_noise is None else duration_noise,
        ]
        feed = {
            "input": np.asarray([ids], np.int64),
            "input_lengths": np.asarray([len(ids)], np.int64),
            "scales": np.asarray(scales, np.float32),
        }
        if any(i.name == "sid" for i in self._encoder.get_inputs()):
            feed["sid"] = np.asarray([self._speaker(speaker)], np.int64)
        z, durations, *others = self._encoder.run(["z", "durations", *self._others], feed)
        return Latents(z, tuple(others), durations.reshape(-1).astype(np.int64))

    def decode(
        self,
        latents: Latents,
        start: int = 0,
        stop: int | None = None,
        left: int = LEFT_CONTEXT,
        right: int = RIGHT_CONTEXT,
    ) -> np.ndarray:
        """The second half: the sound of frames start to stop (default all), mono float32, decoded with `left` and
        `right` frames of context."""
        stop = latents.frames if stop is None else min(stop, latents.frames)
        if not 0 <= start <= stop:
            raise ValueError(f"frames {start} to {stop} are no stretch of {latents.frames}")
        if start == stop:
            return np.zeros(0, np.float32)
        begin, end = max(0, start - left), min(latents.frames, stop + right)
        feed = dict(zip(self._others, latents.others))
        feed["z"] = np.ascontiguousarray(latents.z[..., begin:end])
        pcm = self._decoder.run(["audio"], feed)[0].reshape(-1)
        hop = len(pcm) // (end - begin)
        return pcm[(start - begin) * hop : (stop - begin) * hop]

    def stream(
        self, ids: Sequence[int], block: int = BLOCK, first: int = FIRST_BLOCK, **controls
    ) -> Iterator[PiperBlock]:
        """Phoneme ids to blocks of sound: `first` frames, then `block` frames each. Controls as for `latents`."""
        if block < 1 or first < 1:
            raise ValueError(
                f"blocks must have at least one frame; got first {first}, block {block}"
            )
        latents, at, sample = self.latents(ids, **controls), 0, 0
        while at < latents.frames:
            stop = at + (block if at else first)
            pcm = self.decode(latents, at, stop)
            yield PiperBlock(pcm, sample)
            at, sample = stop, sample + len(pcm)

    def __call__(self, ids: Sequence[int], **controls) -> np.ndarray:
        """The whole utterance in one call: mono float32 at `sample_rate`."""
        return self.decode(self.latents(ids, **controls))

    def _speaker(self, speaker: str | int | None) -> int:
        count = self.config.get("num_speakers", 1)
        number = self.speakers.get(speaker, None) if isinstance(speaker, str) else (speaker or 0)
        if number is None or not 0 <= number < count:
            known = ", ".join(list(self.speakers)[:10]) or f"0 to {count - 1}"
            raise ValueError(f"this voice has no speaker {speaker!r}; it has {known}")
        return number
