"""Codes of speech to samples, in chunks at a constant cost: a flow decoder and a vocoder, each with what it looks ahead to.

As Qwen2.5-Omni has it (arXiv:2503.20215): a diffusion transformer whose blocks see the two before and the one after, and
BigVGAN. Any splitting of the codes gives the same samples.

    samples, state = decoder.step(codes, state)           # (B, n) to (B, m), m often 0
    samples, state = decoder.step(codes, state, last=True)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.bigvgan import BigVgan, BigVganState
from speechstream.nn.flow import FlowDecoder, FlowState
from speechstream.nn.flow_config import FlowConfig
from speechstream.nn.vocoder_config import BigVganConfig


@dataclass(frozen=True)
class Token2WavState:
    """B streams that were given codes together."""

    waiting: Tensor  # (B, frames, condition_dim) what the flow decoder has not decoded
    mel: Tensor  # (B, frames, n_mels) what the vocoder has not
    flow: FlowState
    vocoder: BigVganState


class Token2Wav(nn.Module):
    """Codes (B, n) to samples (B, n * repeats * frame_size). ahead: mel frames that the vocoder is given beyond a chunk."""

    def __init__(self, flow: FlowConfig, vocoder: BigVganConfig, ahead: int | None = None) -> None:
        super().__init__()
        self.flow, self.vocoder = FlowDecoder(flow), BigVgan(vocoder)
        self.ahead = vocoder.reach if ahead is None else min(ahead, vocoder.reach)

    def init_state(
        self, speaker: Tensor, null_speaker: Tensor, seed: int | Tensor = 0
    ) -> Token2WavState:
        """Of as many streams as there are speakers' vectors (B, speaker_dim). null_speaker: that of guidance."""
        c, batch = self.flow.config, len(speaker)
        return Token2WavState(
            speaker.new_zeros(batch, 0, c.condition_dim),
            speaker.new_zeros(batch, 0, c.n_mels),
            self.flow.init_state(batch, speaker, seed, null_speaker),
            self.vocoder.init_state(batch),
        )

    def step(
        self, codes: Tensor, state: Token2WavState, last: bool = False
    ) -> tuple[Tensor, Token2WavState]:
        """The samples that are certain now; at the `last` codes all that are left, and no more steps after it."""
        c = self.flow.config
        waiting = torch.cat([state.waiting, self.flow.embed(codes)], 1)
        frames, flow, mel = waiting.shape[1], state.flow, state.mel
        count = (
            -(-frames // c.windows.block)
            if last
            else max(frames - c.lookahead, 0) // c.windows.block
        )
        size = count * c.windows.block
        if count:
            given = F.pad(waiting, (0, 0, 0, max(size + c.lookahead - frames, 0)))
            lengths = torch.full((len(codes),), frames, device=codes.device)
            y, flow = self.flow.step(given[:, : size + c.lookahead], flow, lengths=lengths)
            mel = torch.cat([mel, y[:, :frames]], 1)
        samples, mel, vocoder = self._voice(mel, state.vocoder, last)
        return samples, Token2WavState(waiting[:, min(size, frames) :], mel, flow, vocoder)

    def _voice(
        self, mel: Tensor, state: BigVganState, last: bool
    ) -> tuple[Tensor, Tensor, BigVganState]:
        frames = mel.shape[1]
        count = frames if last else max(frames - self.ahead, 0)
        if not count:
            return mel.new_zeros(len(mel), 0), mel, state
        given = F.pad(mel, (0, 0, 0, self.ahead)) if last else mel
        lengths = torch.full((len(mel),), frames, device=mel.device)
        samples, state = self.vocoder.step(given, state, self.ahead, lengths)
        return samples, mel[:, count:], state

    def forward(
        self,
        codes: Tensor,
        speaker: Tensor,
        null_speaker: Tensor,
        seed: int | Tensor = 0,
        noise: Tensor | None = None,
        full: bool = False,
    ) -> Tensor:
        """Whole utterances. full: as `FlowDecoder.forward` has it, the reference's offline call."""
        mel = self.flow(self.flow.embed(codes), speaker, seed, null_speaker, noise=noise, full=full)
        return self.vocoder(mel)
