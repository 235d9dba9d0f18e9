"""What a model that is being trained writes by itself: greedy search over many utterances at once, in torch.

    python -m recipes.speech_llm.free work/dev --run work/run --vocabulary work/vocabulary.json --llm model.gguf

Words wrong in % of what `prepare.py` and `hidden.py` have made of a manifest, by source. The search is `asr.speech_llm.family`'s, over what `data.py` has of an utterance; the encoder does not run.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from recipes.common.args import parser, read_config
from recipes.common.logging import report
from recipes.common.precision import autocast, matmul_dtype
from recipes.speech_llm.data import Data
from recipes.speech_llm.start import begin, read_compact
from speechstream.nn.speech_llm import Reader, SpeechLlm
from speechstream.nn.speech_llm_state import NONE, TEXT
from tools._scoring import Errors, count_errors, english_normaliser

SEARCHED = 8  # frames at a time
MOST = 8  # tokens in a frame
BATCH = 32
CONFIG = Path(__file__).with_name("config.yaml")
BUNDLE = Path("speechstream/models/causal-whisper-base")
NOTHING = -2  # in a token's place: the reader skips it


@dataclass
class Written:
    """tokens (m,) and the frames in which they were written."""

    tokens: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)


class Texts:
    """The language model over B texts that grow at their own pace."""

    def __init__(self, reader: Reader, batch: int):
        t, like = reader.config.text, reader.model.embed_tokens.weight
        self.reader = reader
        self.keys = like.new_zeros(batch, t.layers, t.kv_heads, 0, t.head_dim)
        self.values = self.keys
        self.kinds = self.places = torch.zeros(batch, 0, dtype=torch.int64)
        self.read = torch.zeros(batch, 1, dtype=torch.int64)
        self.none = like.new_zeros(batch, 1, t.dim)

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens (B,), `NOTHING` for a text that waits, to hidden states (B, dim), which are of no use there."""
        tokens = tokens[:, None]
        heard = torch.zeros_like(tokens)
        past = self.keys, self.values, self.kinds, self.places
        hidden, keys, values = self.reader(tokens, self.none, self.read, heard, *past)
        real = tokens >= 0
        self.keys = torch.cat([self.keys, keys], 3)
        self.values = torch.cat([self.values, values], 3)
        self.kinds = torch.cat([self.kinds, torch.where(real, TEXT, NONE)], 1)
        self.places = torch.cat([self.places, self.read], 1)
        self.read = self.read + real
        return hidden[:, 0].float()


@torch.no_grad()
def write(
    model: SpeechLlm, reader: Reader, xs: Sequence[Tensor], begins: Sequence[bool]
) -> list[Written]:
    """xs: stacked frames (T, width) of each. reader: the model's own, in `matmul_dtype`. begins: which tokens begin a word."""
    c, hearing, joint, B = model.config, model.hearing, model.joint, len(xs)
    x = torch.nn.utils.rnn.pad_sequence(list(xs), batch_first=True).float()
    frames = torch.tensor([len(a) for a in xs])
    begin = torch.tensor(begins)
    with autocast():
        audio = hearing.heads(hearing.trunk(x))[0]
        plain = x[..., : c.stack * c.sound.dim].reshape(B, -1, c.sound.dim)
        keys, values = hearing.memory(F.pad(plain, (0, 0, c.look - c.stack, 0)))
        blank = torch.full((B,), c.look - c.stack)
        texts, found = Texts(reader, B), [Written() for _ in xs]
        hidden = texts(torch.zeros(B, dtype=torch.int64))
        t, last, many = torch.zeros(B, dtype=torch.int64), torch.full((B,), -1), [0] * B
        each = torch.arange(B)
        while (t < frames).any():
            at = t[:, None] + torch.arange(SEARCHED)
            real, at = at < frames[:, None], at.clamp(max=x.shape[1] - 1)
            said = joint.text(hidden)[:, None].expand(-1, SEARCHED, -1)
            since = at - last[:, None]
            odds, z = joint(
                audio[each[:, None], at], said, since, at * c.stack, blank, keys, values
            )
            due = (odds > 0) & real
            first, ready = due.int().argmax(1), due.any(1)
            table = reader.model.embed_tokens.weight
            prior = (hidden.to(table.dtype) @ table.T).float().log_softmax(-1)
            scores = (joint.out(z[each, first]) + joint.prior * prior).float()
            scores[:, 0] = -torch.inf
            scores[(since[each, first] == 0)[:, None] & begin] = -torch.inf
            token = torch.where(ready, scores.argmax(-1), NOTHING)
            t = torch.where(ready, t + first, torch.minimum(t + SEARCHED, frames))
            if not ready.any():
                continue
            new = texts(token)
            hidden = torch.where(ready[:, None], new, hidden)
            for i in ready.nonzero()[:, 0].tolist():
                w = found[i]
                many[i] = many[i] + 1 if w.at and w.at[-1] == int(t[i]) else 1
                w.tokens.append(int(token[i]))
                w.at.append(int(t[i]))
                last[i] = t[i]
                if many[i] == MOST:
                    t[i] += 1
    return found


def words_wrong(pairs: Sequence[Sequence[str]]) -> float:
    """Words wrong in %, of pairs of a reference and what was recognised, normalised."""
    plain = english_normaliser()
    total = Errors()
    for reference, said in pairs:
        total += count_errors(plain(reference).split(), plain(said).split())
    return 100 * total.wer


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("data", type=Path)
    p.add_argument("--run", type=Path, required=True)
    p.add_argument("--vocabulary", type=Path, required=True)
    p.add_argument("--llm", type=Path, required=True)
    p.add_argument("--bundle", type=Path, default=BUNDLE)
    p.add_argument("--config", type=Path, default=CONFIG)
    args = p.parse_args(arguments)
    config = read_config(args.config)
    torch.set_num_threads(1)
    compact = read_compact(args.vocabulary, args.llm)
    model = begin(args.bundle, args.llm, compact, config["sizes"])
    model.load_state_dict(load_file(args.run / "trained.safetensors"), strict=False)
    model.eval()
    c, reader = model.config, copy.deepcopy(model.reader).to(matmul_dtype())
    data = Data(args.data, model.hearing, c.sound.dim, c.text.dim, config["delay"], compact.begins)
    by: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for n in range(0, len(data.rows), BATCH):
        rows = data.rows[n : n + BATCH]
        xs = [data.stacked(n + i) for i in range(len(rows))]
        for r, w in zip(rows, write(model, reader, xs, compact.begins)):
            pair = compact.text(r.tokens), compact.text(w.tokens)
            by[r.source].append(pair)
            by["all"].append(pair)
    report(**{name: words_wrong(pairs) for name, pairs in by.items()})
    for reference, said in by["all"][:: max(len(data.rows) // 12, 1)]:
        print(f"{reference}\n    {said}")


if __name__ == "__main__":
    main()
