"""Speech tokens to mel frames by flow matching, a chunk at a time at a constant cost.

Conditional flow matching (arXiv:2210.02747) as CosyVoice 2 (arXiv:2412.10117) and Qwen2.5-Omni (arXiv:2503.20215) use
it: an ordinary differential equation carries noise to a mel spectrogram, a network gives its velocity. The network is
causal in blocks, so the solution of a block depends on earlier blocks only through their keys, values and convolution
inputs *in each evaluation of the network*. Those are the state: a chunk costs the same however long the stream is, and
nothing is solved twice.

    state = decoder.init_state(1, speaker, seed)
    mel, state = decoder.step(decoder.embed(tokens), state)       # a chunk at a time
    mel = decoder(decoder.embed(tokens), speaker, seed)           # the same numbers at once

The noise of a frame follows from the stream's seed and the frame's number (`nn.noise`). Where layers look ahead, a
step is given the frames it looks ahead to, solves them provisionally beside the chunk and forgets them; it is given
them again with the next chunk. Its latency is then the look-ahead, whatever the number of solver steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.flow_config import FlowConfig
from speechstream.nn.flow_networks import Chunk, DiT, Geometry, Layout, UNet, Whole
from speechstream.nn.flow_solver import evaluation_times, solve
from speechstream.nn.noise import normal

SIGMA_MIN = 1e-6  # of the path's end in training


@dataclass(frozen=True)
class FlowState:
    """What a stream's next step needs: B streams, each at its own place. Row 1 of the rows is that without conditions.

    slots are the kept frames of all layers, one layer after another: its sinks, then its window, oldest first. Their
    bytes are `FlowConfig.stream_bytes`.
    """

    keys: Tensor  # (B, rows, evaluations, heads, slots, head_dim), rotated
    values: Tensor  # (B, rows, evaluations, heads, slots, head_dim)
    tails: Tensor  # (B, rows, evaluations, n) inputs of the causal convolutions
    speaker: Tensor  # (B, rows, speaker_dim)
    frames: Tensor  # (B,) int64 frames produced so far
    seed: Tensor  # (B,) int64 of the noise


class FlowDecoder(nn.Module):
    """Conditions (B, T, condition_dim) of each frame, or the tokens that `embed` makes them of, to mel (B, T, n_mels)."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = (
            nn.Embedding(config.tokens, config.condition_dim) if config.tokens else None
        )
        self.network = DiT(config) if config.dit is not None else UNet(config)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (B, n) to the conditions (B, n * repeats, condition_dim)."""
        if self.embedding is None:
            raise ValueError(
                "this decoder has no tokens of its own; give it conditions (B, T, dim)"
            )
        return self.embedding(tokens).repeat_interleave(self.config.repeats, 1)

    def init_state(
        self,
        batch: int = 1,
        speaker: Tensor | None = None,
        seed: int | Tensor = 0,
        null_speaker: Tensor | None = None,
    ) -> FlowState:
        """The state of `batch` streams at their beginning.

        speaker (batch, speaker_dim): required where the network has one. seed: of the noise, one for all or (batch,).
        null_speaker: the vector of guidance's unconditional half; zeros by default.
        """
        c, p = self.config, next(self.parameters())
        n, lead = c.network, (batch, c.rows, c.evaluations)
        cache = p.new_zeros(*lead, n.heads, c.slots, n.head_dim)
        seeds = torch.as_tensor(seed, dtype=torch.int64, device=p.device)
        return FlowState(
            cache,
            cache.clone(),
            p.new_zeros(*lead, c.convolution_numbers),
            self._speakers(batch, speaker, null_speaker),
            torch.zeros(batch, dtype=torch.int64, device=p.device),
            seeds.expand(batch).clone(),
        )

    def step(
        self,
        conditions: Tensor,
        state: FlowState,
        prompt: Tensor | None = None,
        lengths: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, FlowState]:
        """Solve the next T frames of each stream.

        conditions (B, T + lookahead, condition_dim): T is a multiple of the block, what is ahead is given again next
        time. prompt (B, T + lookahead, n_mels): the recording that is continued, zero after it. lengths (B,): how many
        of the given frames are real, where a stream ends; the rest of its mel is zero, and it takes no further steps.
        noise (B, T + lookahead, n_mels): in place of the seed's. Returns mel (B, T, n_mels) and the new state.
        """
        c, device = self.config, conditions.device
        frames, given = self._given(conditions, prompt), conditions.shape[1]
        count = given - c.lookahead
        if count < 0 or count % c.windows.block:
            raise ValueError(
                f"a step takes a multiple of {c.windows.block} frames and {c.lookahead} to look ahead to; got {given}: "
                "fill the last chunk up and give its `lengths`"
            )
        if not torch.compiler.is_compiling() and (state.frames % c.windows.block).any():
            raise ValueError("a stream in this batch has ended: its last chunk was short")
        if lengths is None:
            lengths = torch.full((len(conditions),), given, dtype=torch.int64, device=device)
        lengths = lengths.clamp(0, given)
        # a block that looks ahead is solved with its own provisional copy of what is ahead, whatever the chunk is
        size = c.windows.block if c.lookahead else max(count, 1)
        mel = []
        for at in range(0, count, size):
            part = slice(at, at + size + c.lookahead)
            rest = (lengths - at).clamp(0, size + c.lookahead)
            y, state = self._advance(
                frames[:, part], state, rest, None if noise is None else noise[:, part]
            )
            mel.append(y)
        return torch.cat(mel, 1) if mel else conditions.new_zeros(len(frames), 0, c.n_mels), state

    def evaluate(
        self,
        x: Tensor,
        fixed: Tensor,
        time: Tensor,
        frames: Tensor,
        lengths: Tensor,
        keys: Tensor,
        values: Tensor,
        tails: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One evaluation of the network on a chunk, for who drives the solver: what `export.cosyvoice` writes.

        x (R, N, n_mels) and what stands beside it, `fixed` (R, N, ...), in R rows that have had `frames` (R,), of whose
        N frames `lengths` (R,) are real; time (1,); the caches of this evaluation, (R, heads, slots, head_dim) and
        (R, n). Returns the velocity (R, N, n_mels) and the new caches.
        """
        geometry = Geometry(self.config, frames, x.shape[1], lengths, x.dtype)
        chunk = Chunk(geometry, keys, values, tails)
        v = self.network(torch.cat([x, fixed], -1), self.network.modulations(time), chunk)
        return v, chunk.new_keys, chunk.new_values, chunk.tails.pack()

    def _advance(
        self, conditions: Tensor, state: FlowState, lengths: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, FlowState]:
        c, count = self.config, conditions.shape[1]
        place = state.frames[:, None] + torch.arange(count, device=conditions.device)
        if noise is None:
            noise = normal(state.seed, place, c.n_mels).to(conditions.dtype)
        fixed = self._rows(conditions, state.speaker)
        geometry = Geometry(
            c,
            state.frames.repeat_interleave(c.rows),
            count,
            lengths.repeat_interleave(c.rows),
            conditions.dtype,
        )
        modulations = self._modulations(conditions.device)
        chunks: list[Chunk] = []

        def velocity(x: Tensor, e: int) -> Tensor:
            kept = (t[:, :, e].flatten(0, 1) for t in (state.keys, state.values, state.tails))
            chunks.append(Chunk(geometry, *kept))
            return self._guided(x, fixed, [m[e : e + 1] for m in modulations], chunks[-1])

        x = solve(velocity, noise, c.solver_times, c.solver)[:, : geometry.keep]
        keys, values, tails = (
            torch.stack(parts, 1).unflatten(0, (-1, c.rows))
            for parts in (
                [k.new_keys for k in chunks],
                [k.new_values for k in chunks],
                [k.tails.pack() for k in chunks],
            )
        )
        real = torch.arange(geometry.keep, device=x.device) < lengths[:, None]
        produced = state.frames + lengths.clamp(max=geometry.keep)
        return (
            torch.where(real[..., None], x, 0.0),
            FlowState(keys, values, tails, state.speaker, produced, state.seed),
        )

    def forward(
        self,
        conditions: Tensor,
        speaker: Tensor | None = None,
        seed: int | Tensor = 0,
        null_speaker: Tensor | None = None,
        prompt: Tensor | None = None,
        lengths: Tensor | None = None,
        noise: Tensor | None = None,
        full: bool = False,
    ) -> Tensor:
        """Mel (B, T, n_mels) of whole streams (B, T, condition_dim), of which `lengths` (B,) frames are real.

        It equals the stream. full: layers that look ahead see the frames that will be heard in place of a chunk's own
        provisional copy of them, as Qwen2.5-Omni's offline call has it; every evaluation then looks further ahead.
        """
        c, device, count = self.config, conditions.device, conditions.shape[1]
        frames = self._given(conditions, prompt)
        if not count:
            return conditions.new_zeros(len(frames), 0, c.n_mels)
        if lengths is None:
            lengths = torch.full((len(frames),), count, dtype=torch.int64, device=device)
        layout = Layout.make(c, count, full, device)
        at = layout.positions.clamp(max=count - 1)
        if noise is None:
            seeds = torch.as_tensor(seed, dtype=torch.int64, device=device).expand(len(frames))
            place = layout.positions.expand(len(frames), -1)
            x = normal(seeds, place, c.n_mels).to(conditions.dtype)
        else:
            x = noise[:, at]
        fixed = self._rows(frames[:, at], self._speakers(len(frames), speaker, null_speaker))
        modulations = self._modulations(device)
        known = lengths.clamp(max=count).repeat_interleave(c.rows)

        def velocity(x: Tensor, e: int) -> Tensor:
            whole = Whole(c, layout, known, x.dtype)
            return self._guided(x, fixed, [m[e : e + 1] for m in modulations], whole)

        x = solve(velocity, x, c.solver_times, c.solver)[:, ~layout.provisional][:, :count]
        real = torch.arange(count, device=device) < lengths[:, None]
        return torch.where(real[..., None], x, 0.0)

    def velocity(
        self,
        x: Tensor,
        times: Tensor,
        conditions: Tensor,
        speaker: Tensor | None = None,
        prompt: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """One evaluation for whole streams: noisy mel (B, T, n_mels) at `times` (B,) to its velocity, without guidance."""
        c, count = self.config, x.shape[1]
        frames = torch.cat([self._given(conditions, prompt), self._per_frame(speaker, x)], -1)
        if lengths is None:
            lengths = torch.full((len(x),), count, dtype=torch.int64, device=x.device)
        layout = Layout.make(c, count, True, x.device)
        fill = len(layout.positions) - count
        given = F.pad(torch.cat([x, frames], -1), (0, 0, 0, fill))
        whole = Whole(c, layout, lengths, x.dtype)
        return self.network(given, self.network.modulations(times), whole)[:, :count]

    def loss(
        self,
        mel: Tensor,
        conditions: Tensor,
        speaker: Tensor | None = None,
        prompt: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """The flow-matching loss of mel (B, T, n_mels): the straight path's velocity, at random times from random noise."""
        if lengths is None:
            lengths = torch.full((len(mel),), mel.shape[1], dtype=torch.int64, device=mel.device)
        times, noise = torch.rand(len(mel), device=mel.device), torch.randn_like(mel)
        t = times[:, None, None]
        x = (1 - (1 - SIGMA_MIN) * t) * noise + t * mel
        off = self.velocity(x, times, conditions, speaker, prompt, lengths) - (
            mel - (1 - SIGMA_MIN) * noise
        )
        real = torch.arange(mel.shape[1], device=mel.device) < lengths[:, None]
        return (off.square() * real[..., None]).sum() / (real.sum().clamp(min=1) * mel.shape[2])

    def _modulations(self, device: torch.device) -> list[Tensor]:
        times = evaluation_times(self.config.solver_times, self.config.solver)
        return self.network.modulations(torch.tensor(times, dtype=torch.float32, device=device))

    def _guided(
        self, x: Tensor, fixed: Tensor, modulations: list[Tensor], context: Whole | Chunk
    ) -> Tensor:
        """The velocity of x (B, N, n_mels); both halves of guidance are rows of one batch."""
        rows, guidance = self.config.rows, self.config.guidance
        given = torch.cat([x.repeat_interleave(rows, 0), fixed], -1)
        v = self.network(given, modulations, context)
        if rows == 1:
            return v
        v, null = v.unflatten(0, (-1, rows)).unbind(1)
        return v + guidance * (v - null)

    def _rows(self, frames: Tensor, speaker: Tensor) -> Tensor:
        """What the network is given beside x: (B * rows, N, ...), stream by stream."""
        rows = [frames]
        if self.config.rows == 2:
            null = torch.zeros_like(frames)
            if self.embedding is not None:
                null[..., : self.config.condition_dim] = self.embedding.weight[
                    self.config.null_token
                ]
            rows.append(null)
        both = torch.stack(rows, 1)
        wide = speaker[:, :, None].expand(-1, -1, frames.shape[1], -1)
        return torch.cat([both, wide.to(both.dtype)], -1).flatten(0, 1)

    def _given(self, conditions: Tensor, prompt: Tensor | None) -> Tensor:
        """Conditions and prompt side by side, checked."""
        c = self.config
        if conditions.dim() != 3 or conditions.shape[2] != c.condition_dim:
            raise ValueError(
                f"conditions must be (B, T, {c.condition_dim}); got {tuple(conditions.shape)}"
            )
        if not c.prompt:
            if prompt is not None:
                raise ValueError("this decoder takes no prompt")
            return conditions
        shape = (*conditions.shape[:2], c.n_mels)
        if prompt is None:
            prompt = conditions.new_zeros(shape)
        if tuple(prompt.shape) != shape:
            raise ValueError(
                f"the prompt must be {shape}, zero after it; got {tuple(prompt.shape)}"
            )
        return torch.cat([conditions, prompt], -1)

    def _speakers(self, batch: int, speaker: Tensor | None, null: Tensor | None) -> Tensor:
        """(B, rows, speaker_dim)."""
        c = self.config
        shape = (batch, c.speaker_dim)
        if speaker is None and not c.speaker_dim:
            speaker = next(self.parameters()).new_zeros(shape)
        if speaker is None or tuple(speaker.shape) != shape:
            got = "none" if speaker is None else tuple(speaker.shape)
            raise ValueError(f"the speaker's vector must be {shape}; got {got}")
        if c.rows == 1:
            return speaker[:, None].clone()
        null = torch.zeros_like(speaker) if null is None else null.expand_as(speaker)
        return torch.stack([speaker, null], 1)

    def _per_frame(self, speaker: Tensor | None, x: Tensor) -> Tensor:
        """The speaker at every frame of x (B, T, ...): (B, T, speaker_dim)."""
        return self._speakers(len(x), speaker, None)[:, :1].expand(-1, x.shape[1], -1)
