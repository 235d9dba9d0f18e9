"""A recogniser that hears a word in every half second of any sound, and a sentence in every two seconds.

Run as a script, it is the command line with this recogniser in place of the real one: `python fake_recognizer.py
transcribe ...`. It has the real one's interface (load, stream, transcribe, latencies), and counts what it was given, so
the tests of the command line need no model.
"""

import sys
import time
from types import ModuleType

from speechstream.asr.multichannel import SplitStream
from speechstream.errors import AudioDamaged
from speechstream.events import Endpoint, Final, Partial, Transcript, Word

WORD_S, WORDS = 0.5, 4  # seconds a word, words a sentence


class Stream:
    def __init__(self, rate):
        self.rate, self.samples, self.said, self.finals = rate, 0, 0, 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def push(self, block):
        self.samples += len(block)
        events = []
        while (self.said + 1) * WORD_S * self.rate <= self.samples:
            self.said += 1
            events += self._partial() if self.said % WORDS else self._final(ended=True)
        return events

    def finish(self):
        return (
            self._final(ended=False)
            if self.said % WORDS or self.samples > self.said * WORD_S * self.rate
            else []
        )

    def _words(self):
        first = self.finals * WORDS
        return [
            Word(f"word{i}", i * WORD_S, (i + 0.9) * WORD_S, 0.9) for i in range(first, self.said)
        ]

    def _partial(self):
        texts = [w.text for w in self._words()]
        return [Partial(" ".join(texts[:-1]), texts[-1], self.samples / self.rate)]

    def _final(self, ended):
        words, seconds = self._words(), self.samples / self.rate
        text = " ".join([w.text for w in words] + ([] if ended else [f"tail{self.samples}"]))
        start = self.finals * WORDS * WORD_S
        self.finals += 1
        final = Final(text, tuple(words), start, seconds)
        return [final, Endpoint(words[-1].end, seconds)] if ended else [final]


class Recognizer:
    latencies = (80, 160, 320, 640, 1280)
    batch_size = 1
    card = {}

    @classmethod
    def load(cls, path=None, **options):
        if path == "slow":
            print("loading", file=sys.stderr, flush=True)
            time.sleep(300)
        if path == "options":
            print(options["rules"].silence_s, options["rules"].longest_s, options["form"])
        recognizer = cls()
        recognizer.pace_s = 0.2 if path == "dawdling" else 0.0
        return recognizer

    def stream(self, latency_ms=320, sample_rate=16000):
        if latency_ms not in self.latencies:
            raise ValueError(latency_ms)
        return Stream(sample_rate)

    def split_stream(self, latency_ms=320, sample_rate=16000):
        return SplitStream(lambda: self.stream(latency_ms, sample_rate))

    def transcribe(self, path, latency_ms=None, progress=None, channels="mix"):
        from speechstream.audio.io import blocks
        from speechstream.audio.recording import Blocks

        with path if isinstance(path, Blocks) else blocks(path, channels=channels) as parts:
            open_stream = self.split_stream if parts.channels == "split" else self.stream
            stream, events, damage, samples = open_stream(320, parts.rate), [], None, 0
            try:
                for block in parts:
                    events += stream.push(block)
                    samples += len(block)
                    progress(samples / parts.rate)
                    time.sleep(self.pace_s)
            except AudioDamaged as error:
                damage = error
            events += stream.finish()
        finals = sorted((e for e in events if isinstance(e, Final)), key=lambda e: e.start)
        transcript = Transcript(tuple(finals), samples / parts.rate)
        if damage is not None:
            damage.transcript = transcript
            raise damage
        return transcript


def install():
    module = ModuleType("speechstream.asr.recognizer")
    module.Recognizer = Recognizer
    sys.modules[module.__name__] = module


if __name__ == "__main__":
    install()
    from speechstream.cli import main

    sys.exit(main())
