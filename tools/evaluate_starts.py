"""When the first word is said to begin, against when the sound of a synthetic sentence begins.

    python -m tools.evaluate_starts [--sentences 20] [--latency 320 offline] [--model VOICE]

Each sentence is spoken by a voice that has no noise of its own, behind a second of silence and behind as much quiet noise.
It begins where its loudness comes within ONSET_DB of its peak. (The voice's own dates are no measure: they lag by 45 ms.)
"""

from __future__ import annotations

import argparse

import numpy as np

import speechstream as ss

BEFORE_S, NOISE = 1.0, 10 ** (-55 / 20)
STEP_S, ONSET_DB = 0.005, 30.0
SENTENCES = """He was not in the house when we came.
Have you seen my brother this morning?
Three of the windows were broken.
Please bring me a glass of water.
Some people never learn to wait.
The train leaves at half past nine.
Open the door and let him in.
She had forgotten where it was.
We could go by boat instead.
All of them were very tired.
Nobody knows what will happen next.
First turn left, then right again.
Good morning, how are you today?
It is too late to change anything.
Are there any questions about this?
Put the book back on the table.
Children like to play in the garden.
Very few of us remember that day.
What did the doctor say about it?
Under the bridge we found a small dog.""".splitlines()


def onset(pcm: np.ndarray, rate: int) -> float:
    """Seconds at which the sound begins."""
    step = round(STEP_S * rate)
    power = (pcm[: len(pcm) // step * step].reshape(-1, step).astype(np.float64) ** 2).mean(1)
    return float(np.argmax(power > power.max() * 10 ** (-ONSET_DB / 10))) * step / rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=len(SENTENCES))
    parser.add_argument("--latency", nargs="+", default=["320", "offline"])
    parser.add_argument("--model")
    args = parser.parse_args()
    asr, tts, rng = ss.Recognizer.load(), ss.Synthesizer.load(args.model), np.random.default_rng(0)
    said = [tts.synthesize(sentence).pcm for sentence in SENTENCES[: args.sentences]]
    rate = tts.sample_rate
    for latency in args.latency:
        milliseconds = None if latency == "offline" else int(latency)
        for name, level in (("silence", 0.0), ("noise", NOISE)):
            errors = []
            for pcm in said:
                n = np.zeros(int(BEFORE_S * rate), np.float32)
                x = np.concatenate([n, pcm, n])
                x += (level * rng.standard_normal(len(x))).astype(np.float32)
                if words := asr.transcribe(x, rate, latency_ms=milliseconds).words:
                    errors.append(words[0].start - BEFORE_S - onset(pcm, rate))
            ms = 1000 * np.array(errors)
            print(
                f"{latency:>7} behind {name:7} {len(ms):3} first words: median {np.median(ms):+.0f} ms, "
                f"absolute {np.median(abs(ms)):.0f} ms, 90th percentile {np.percentile(abs(ms), 90):.0f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
