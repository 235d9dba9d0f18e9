"""Speed of pocket-tts on one thread beside transformers' own in the same run, random weights.

python -m tools.bench_pocket --size published          # 100 million parameters; wants a machine of its own
python -m tools.bench_pocket --size tiny               # whether it runs

Both make the same latents of the same noise and decode them; the two take turns, and of each the median is told. "frame":
one latent, without its sound. "first sound": the text read, one latent, and its 80 ms; transformers gives no sound before
all latents are made, so its figure is that of a text that is read, one latent and its decoding. "RTF": time over sound.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechstream.convert.pocket import load_pocket
from speechstream.export.pocket import write_pocket
from speechstream.export.quantize import FORMS
from speechstream.tts.pocket.network import PocketNetwork, read_config
from tools.make_tiny_pocket import PIECES, tiny, write

PUBLISHED: tuple[dict[str, Any], ...] = (
    {
        "hidden_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "latent_dim": 32,
    },
    {"hidden_size": 512, "num_hidden_layers": 6, "frequency_embedding_size": 256},
    {
        "sampling_rate": 24_000,
        "hidden_size": 512,
        "num_filters": 64,
        "upsampling_ratios": [6, 5, 4],
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "intermediate_size": 2048,
        "sliding_window": 250,
        "upsample_groups": 512,
        "latent_stride": 16,
        "latent_dim": 32,
    },
)
BLOCK = 4  # latents decoded at a time, after the first


class Peer:
    """transformers."""

    def __init__(self, networks: Any, tokens: list[int], voice: torch.Tensor) -> None:
        self.model, self.codec = networks
        c = self.model.config
        ids = [c.audio_prompt_bos_token_id, *[c.audio_prompt_token_id] * len(voice), *tokens]
        self.ids, self.voice = torch.tensor([[*ids, c.audio_bos_token_id]]), voice[None]
        # the voice's keys and values are kept, as they are in our bundle
        prefix = self.ids[:, : len(voice) + 1]
        self.prefix = lambda: (
            self.model(input_ids=prefix, audio_prompt_latents=self.voice, use_cache=True).cache
        )
        self.caches: list[Any] = []

    def prepare(self) -> None:
        self.caches = [self.prefix()]

    def latents(self, frames: int) -> torch.Tensor:
        text = self.ids[:, self.voice.shape[1] + 1 :]
        out = self.model.generate(
            input_ids=text,
            attention_mask=torch.ones_like(text),
            cache=self.caches.pop(),
            do_sample=True,
            eos_threshold=1e9,
            frames_after_eos=1,
            max_new_tokens=frames,
            return_dict_in_generate=True,
        )
        return out.audio_latents

    def first(self) -> Any:
        return self.codec.decode(self.latents(1)).audio_values

    def whole(self, frames: int) -> Any:
        return self.codec.decode(self.latents(frames)).audio_values


class Ours:
    """The graphs of a bundle."""

    def __init__(self, network: PocketNetwork, tokens: list[int]) -> None:
        self.network, self.tokens = network, [*tokens, network.config.bos]
        rng = np.random.default_rng(0)
        self.noise = rng.standard_normal((1000, network.config.latent_dim)).astype(np.float32)

    def prepare(self) -> None:
        pass

    def latents(self, frames: int) -> list[np.ndarray]:
        frame, caches = self.network.read(self.tokens, self.noise[0], self.network.voices[0])
        found = [frame.latent]
        for noise in self.noise[1:frames]:
            frame, caches = self.network.next(frame.next, noise, caches)
            found.append(frame.latent)
        return found

    def first(self) -> Any:
        latents = np.stack(self.latents(1))[None]
        return self.network.decode(latents, self.network.codec.init_state())

    def whole(self, frames: int) -> Any:
        latents, state, audio = self.latents(frames), self.network.codec.init_state(), []
        cuts = [0, 1, *range(1 + BLOCK, frames, BLOCK), frames]
        for begin, end in zip(cuts, cuts[1:]):
            if end > begin:
                pcm, state = self.network.decode(np.stack(latents[begin:end])[None], state)
                audio.append(pcm)
        return np.concatenate(audio, -1)


def timed(who: Any, call: Callable[[], Any]) -> float:
    who.prepare()
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=("tiny", "published"), default="tiny")
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    networks = tiny(*(PUBLISHED if args.size == "published" else ()))
    tokens = np.random.default_rng(1).integers(4, len(PIECES), 40).tolist()
    with tempfile.TemporaryDirectory() as folder:
        one = load_pocket(write(Path(folder) / "checkpoint", *networks))
        voice = next(iter(one.voices.values()))
        who: dict[str, Any] = {"transformers": Peer(networks, tokens, voice)}
        for form in ("fp32", "int8", "int8-blocks"):
            card = {"name": "random", "licence": "none"}
            b = write_pocket(one, Path(folder) / form, card, FORMS[form])
            who[form] = Ours(PocketNetwork(b, read_config(b).network), tokens)
            print(f"{form}: {b.nbytes / 1e6:.1f} MB")
        seconds = args.frames / one.config.frame_rate
        rows: dict[str, list[list[float]]] = {name: [] for name in who}
        for _ in range(args.rounds + 1):
            for name, w in who.items():
                latents = timed(w, lambda w=w: w.latents(args.frames))
                first = timed(w, w.first)
                whole = timed(w, lambda w=w: w.whole(args.frames))
                rows[name].append([1000 * latents / args.frames, 1000 * first, whole / seconds])
        print(f"{'':14}{'ms a frame':>12}{'first sound, ms':>18}{'RTF':>8}")
        for name, measured in rows.items():
            frame, first, rtf = (
                statistics.median(c) for c in zip(*measured[1:])
            )  # the first warms up
            print(f"{name:14}{frame:12.2f}{first:18.1f}{rtf:8.3f}")


if __name__ == "__main__":
    main()
