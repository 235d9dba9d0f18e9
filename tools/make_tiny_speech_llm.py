"""Make a tiny speech LLM of random weights as a bundle. python -m tools.make_tiny_speech_llm FOLDER

It babbles, but every file has the form that `recipes/speech_llm` gives a trained one. What it says depends on what it
hears and on what it has said: weights are large enough for that.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from speechstream import bundle
from speechstream.asr.speech_llm.family import CTC
from speechstream.export.speech_llm import add_graphs
from speechstream.nn.llm_config import LlmConfig
from speechstream.nn.speech_llm import SpeechLlm
from speechstream.nn.speech_llm_config import SoundConfig, SpeechLlmBundle, SpeechLlmConfig
from tools._tiny import folder

WORDS = (
    "the rain fell softly on a grey stone house and the wind sang of summer while we sat by the fire"
).split()
PIECES = [f" {w}".encode() for w in WORDS] + [b"s", b"ing", b".", b",", b"?", b" \xc3", b"\xa9"]
HEARD = ["<blank>", *dict.fromkeys(f"▁{w}" for w in WORDS), "s", "ing"]  # the CTC head's pieces
SIZES: dict[str, Any] = {
    "stack": 4,
    "trunk_dim": 24,
    "trunk_blocks": 2,
    "kernel": 3,
    "look": 12,
    "look_blocks": 2,
    "ctc_dim": 12,
    "ctc_blocks": 1,
    "ctc_vocab_size": len(HEARD),
    "sound_window": 10,
    "sound_sinks": 2,
    "text_window": 9,
    "text_sinks": 2,
}


def tiny(seed: int = 0, text: dict[str, Any] | None = None, **sizes: Any) -> SpeechLlm:
    """The network; sizes over those above."""
    torch.manual_seed(seed)
    small = {"dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ff_dim": 48}
    config = SpeechLlmConfig(
        SoundConfig(n_mels=80, dim=32, heads=4, layers=2, positions=150, left_context=40),
        LlmConfig(vocab_size=len(PIECES) + 1, **{**small, **(text or {})}),
        **{**SIZES, **sizes},
    )
    model = SpeechLlm(config).eval().requires_grad_(False)
    for name, p in model.named_parameters():
        if "norm" in name or ".ln" in name or "_ln" in name:
            p.add_(0.1 * torch.randn_like(p))
        elif p.ndim > 1:
            p.copy_(torch.randn_like(p) * 1.3 / p[0].numel() ** 0.5)
    model.reader.model.embed_tokens.weight.copy_(torch.randn(len(PIECES) + 1, config.text.dim))
    model.joint.out.weight.mul_(3)
    model.joint.prior.fill_(0.3)
    for block in model.joint.blocks:
        block.fresh.copy_(torch.randn(block.fresh.shape))
    _balance(model)
    return model


@torch.no_grad()
def _balance(model: SpeechLlm) -> None:
    """Shift and scale what is made of frames, so that of noise in syllables one in three has something to say."""
    heads, joint, c = model.hearing.heads, model.joint, model.config
    loud = torch.rand(1, 1, 40).repeat_interleave(20, 2)
    mel = (torch.randn(1, 80, 800) * 0.3 + loud * 2 - 1).clamp(min=-0.75)
    frames = model.hearing.step(F.pad(mel, (0, 1)), model.hearing.init_state())
    for head, x, wanted in zip((heads.audio, heads.projector, heads.quiet), frames, (1.5, 1, 3)):
        x = x.reshape(-1, len(head.bias))
        scale = wanted / x.std(0).mean()
        head.bias.sub_(x.mean(0)).mul_(scale)
        head.weight.mul_(scale)
    audio, _, _, keys, values, _, _ = model.hearing.step(
        F.pad(mel, (0, 1)), model.hearing.init_state()
    )
    odds = [
        model.looked(
            audio, said, torch.tensor([1]), torch.tensor([c.look - c.stack]), keys, values
        )[0]
        for said in joint.text(torch.randn(20, 1, c.text.dim))
    ]
    joint.gate[-1].bias.sub_(torch.cat(odds).flatten().quantile(0.65))


def write(folder: str | Path, model: SpeechLlm, graphs: bool = True, **about: Any) -> Path:
    """A bundle of this network. about: what `SpeechLlmBundle` has besides."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: t.contiguous() for n, t in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    pieces = [base64.b64encode(p).decode() for p in PIECES]
    (folder / "tokens.json").write_text(json.dumps({"special": 1, "pieces": pieces}))
    config = asdict(SpeechLlmBundle(model.config, **about))
    card = {"name": "tiny speech LLM", "licence": "none: random weights"}
    files = ["model.safetensors", "tokens.json"]
    if model.config.ctc_vocab_size:
        table = {"model": {"vocab": {p: i for i, p in enumerate(HEARD)}}}
        (folder / CTC).write_text(json.dumps(table))
        files.append(CTC)
    b = bundle.write(folder, "asr", "speech-llm", config, card, files)
    if graphs:
        add_graphs(b)
    return folder


def main(folder: str) -> None:
    write(folder, tiny())


if __name__ == "__main__":
    main(folder(__doc__))
