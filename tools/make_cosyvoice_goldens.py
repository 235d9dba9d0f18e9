"""What the original code of CosyVoice makes of the tiny checkpoints of `tools.make_tiny_cosyvoice`.

    python -m tools.make_cosyvoice_goldens COSYVOICE MATCHA tests/convert/goldens/cosyvoice.safetensors

COSYVOICE is a clone of FunAudioLLM/CosyVoice (made with ace7c47), MATCHA one of shivammehta25/Matcha-TTS; they need einops,
omegaconf, x_transformers, diffusers 0.27, conformer and loguru beside this project's [dev]. The original's modules take the
checkpoints' tensors under their own names, strictly, so the layout is theirs too. Where they are made for one size (512
channels), the part is made anew by the same class.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from speechstream.nn.flow_vocoder import NOISE_FRAMES
from tools.make_tiny_cosyvoice import (
    CLASSES,
    SPEAKER,
    TEXT_ROWS,
    Sizes,
    flow_weights,
    hift_weights,
    lm_weights,
)

SIZES = Sizes(mels=80)  # the original's solver is written for 80
TOKENS, PROMPT, FRAMES = 33, 8, 41


def stand_ins(cosyvoice: Path, matcha: Path) -> None:
    """Modules that the original imports on its way and does not need here."""
    sys.path[:0] = [str(cosyvoice), str(matcha)]
    for name in ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    online = types.ModuleType("cosyvoice.utils.onnx")
    online.SpeechTokenExtractor, online.online_feature, online.onnx_path = None, False, ""
    logger = types.ModuleType("matcha.utils.pylogger")
    logger.get_pylogger = lambda name: None
    package = types.ModuleType("matcha.utils")
    package.__path__ = []
    classes = types.ModuleType("cosyvoice.utils.class_utils")
    sys.modules |= {
        "cosyvoice.utils.onnx": online,
        "cosyvoice.utils.class_utils": classes,
        "matcha.utils": package,
        "matcha.utils.pylogger": logger,
    }
    import huggingface_hub

    if not hasattr(huggingface_hub, "cached_download"):  # of diffusers 0.27
        huggingface_hub.cached_download = None
    from cosyvoice.transformer.attention import RelPositionMultiHeadedAttention
    from cosyvoice.transformer.embedding import EspnetRelPositionalEncoding
    from cosyvoice.transformer.subsampling import LinearNoSubsampling

    classes.COSYVOICE_EMB_CLASSES = {"rel_pos_espnet": EspnetRelPositionalEncoding}
    classes.COSYVOICE_SUBSAMPLE_CLASSES = {"linear": LinearNoSubsampling}
    classes.COSYVOICE_ATTENTION_CLASSES = {"rel_selfattn": RelPositionMultiHeadedAttention}
    classes.COSYVOICE_ACTIVATION_CLASSES = {"swish": torch.nn.SiLU}


def flow_model(version: int) -> Any:
    from cosyvoice.flow.flow_matching import CausalConditionalCFM
    from cosyvoice.transformer.upsample_encoder import (
        PreLookaheadLayer,
        Upsample1D,
        UpsampleConformerEncoder,
    )
    from omegaconf import DictConfig

    s = SIZES
    how = DictConfig(
        {
            "sigma_min": 1e-6,
            "solver": "euler",
            "t_scheduler": "cosine",
            "training_cfg_rate": 0.2,
            "inference_cfg_rate": 0.7,
            "reg_loss_type": "l1",
        }
    )
    common = dict(output_size=s.mels, spk_embed_dim=SPEAKER, vocab_size=CLASSES)
    if version == 3:
        from cosyvoice.flow.DiT.dit import DiT
        from cosyvoice.flow.flow import CausalMaskedDiffWithDiT

        dit = DiT(
            dim=32,
            depth=2,
            heads=2,
            dim_head=16,
            ff_mult=2,
            mel_dim=s.mels,
            mu_dim=s.mels,
            spk_dim=s.mels,
            static_chunk_size=2 * s.block,
        )
        decoder = CausalConditionalCFM(240, how, 1, s.mels, dit)
        ahead = PreLookaheadLayer(s.mels, s.dim, 3)
        return CausalMaskedDiffWithDiT(
            input_size=s.mels, pre_lookahead_layer=ahead, decoder=decoder, **common
        )
    from cosyvoice.flow.decoder import CausalConditionalDecoder
    from cosyvoice.flow.flow import CausalMaskedDiffWithXvec

    encoder = UpsampleConformerEncoder(
        s.dim,
        s.dim,
        s.heads,
        s.ff,
        s.layers,
        input_layer="linear",
        pos_enc_layer_type="rel_pos_espnet",
        selfattention_layer_type="rel_selfattn",
        use_cnn_module=False,
        macaron_style=False,
        static_chunk_size=s.block,
    )
    encoder.pre_lookahead_layer = PreLookaheadLayer(s.dim, s.dim, 3)
    encoder.up_layer = Upsample1D(s.dim, s.dim, 2)
    encoder.up_encoders = encoder.up_encoders[: s.up_layers]
    unet = CausalConditionalDecoder(
        4 * s.mels,
        s.mels,
        (s.width,),
        0.0,
        8,
        n_blocks=1,
        num_mid_blocks=1,
        num_heads=2,
        act_fn="gelu",
        static_chunk_size=2 * s.block,
    )
    decoder = CausalConditionalCFM(240, how, 1, s.mels, unet)
    return CausalMaskedDiffWithXvec(input_size=s.dim, encoder=encoder, decoder=decoder, **common)


def flow_goldens(version: int) -> dict[str, Tensor]:
    model = flow_model(version).eval()
    model.load_state_dict(flow_weights(SIZES, version), strict=True)
    g = torch.Generator().manual_seed(version)
    tokens = torch.randint(CLASSES, (1, TOKENS), generator=g)
    prompt_mel = torch.randn(1, 2 * PROMPT, SIZES.mels, generator=g)
    speaker = torch.randn(1, SPEAKER, generator=g)
    noise = torch.randn(1, 2 * TOKENS, SIZES.mels, generator=g)
    model.decoder.rand_noise = noise.transpose(1, 2)
    count = torch.tensor([TOKENS - PROMPT]), torch.tensor([PROMPT])
    heard = {}
    keep = model.decoder.forward

    def spy(mu: Tensor, *args: Any, **options: Any) -> Any:
        heard["mu"] = mu.clone()
        return keep(mu, *args, **options)

    model.decoder.forward = spy
    mel, _ = model.inference(
        tokens[:, PROMPT:],
        count[0],
        tokens[:, :PROMPT],
        count[1],
        prompt_mel,
        torch.tensor([2 * PROMPT]),
        speaker,
        streaming=True,
        finalize=True,
    )
    return {
        "tokens": tokens,
        "prompt_mel": prompt_mel,
        "speaker": speaker,
        "noise": noise,
        "mu": heard["mu"].transpose(1, 2).contiguous(),
        "mel": mel.transpose(1, 2).contiguous(),
    }


def vocoder_goldens(version: int) -> dict[str, Tensor]:
    from cosyvoice.hifigan import f0_predictor, generator

    causal = version == 3
    pitch = (f0_predictor.CausalConvRNNF0Predictor if causal else f0_predictor.ConvRNNF0Predictor)(
        1, SIZES.mels, 6
    )
    model = (generator.CausalHiFTGenerator if causal else generator.HiFTGenerator)(
        SIZES.mels,
        16,
        2,
        2400,
        upsample_rates=[4, 3],
        upsample_kernel_sizes=[8, 5],
        resblock_kernel_sizes=[3, 5],
        resblock_dilation_sizes=[[1, 2], [1, 2]],
        source_resblock_kernel_sizes=[3, 5],
        source_resblock_dilation_sizes=[[1, 2], [1, 2]],
        f0_predictor=pitch,
    ).eval()
    model.load_state_dict(hift_weights(SIZES, version))
    random = np.random.RandomState(0)
    draw = random.random_sample if causal else lambda size: random.standard_normal(size)
    noise = torch.from_numpy(draw((NOISE_FRAMES * 48, 3))).float()[None]
    if causal:
        model.m_source.l_sin_gen.sine_waves = noise
        model.m_source.l_sin_gen.rand_ini = torch.zeros(1, 3)
    else:
        kept = torch.randn_like
        torch.randn_like = lambda x: noise[:, : x.shape[1], : x.shape[2]]
    mel = torch.randn(1, FRAMES, SIZES.mels, generator=torch.Generator().manual_seed(version)) - 1
    audio, _ = model.inference(mel.transpose(1, 2))
    if not causal:
        torch.randn_like = kept
    return {"vocoder_mel": mel, "audio": audio.detach()}


class Uniforms:
    """Draws of a step as `speechstream.tts.cosyvoice.writing` makes them, in the place of torch's."""

    def __init__(self, number: int) -> None:
        self.number = number

    def sampling(self, scores: Tensor, decoded: list[int], k: int) -> int:
        from cosyvoice.utils.common import ras_sampling

        random = np.random.Philox(key=[0, self.number], counter=[0, 0, 0, len(decoded)])
        draws = iter(np.random.Generator(random).random(2))

        def multinomial(p: Tensor, count: int, replacement: bool = True) -> Tensor:
            edges = p.double().cumsum(0)
            return torch.searchsorted(edges, next(draws) * edges[-1:], right=True)

        kept, Tensor.multinomial = Tensor.multinomial, multinomial
        try:
            return ras_sampling(scores, decoded, k)
        finally:
            Tensor.multinomial = kept


def lm_goldens(version: int) -> dict[str, Tensor]:
    from cosyvoice.llm.llm import CosyVoice3LM, Qwen2Encoder, Qwen2LM
    from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

    s = SIZES
    config = Qwen2Config(
        vocab_size=TEXT_ROWS,
        hidden_size=s.lm_dim,
        num_hidden_layers=s.lm_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * s.lm_dim,
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
    )
    # the original asks its cache for a length as older releases of transformers allowed
    DynamicCache.__getitem__ = lambda cache, i: (cache.layers[i].keys, cache.layers[i].values)
    encoder = Qwen2Encoder.__new__(Qwen2Encoder)
    torch.nn.Module.__init__(encoder)
    encoder.model = Qwen2ForCausalLM(config)
    one_step = encoder.forward_one_step

    def seeing_all(x: Tensor, masks: Tensor, cache: Any = None) -> Any:
        # a mask of the new token alone meant all before it to older releases of transformers
        before = 0 if cache is None else cache.get_seq_length()
        return one_step(x, torch.ones(1, 1, before + x.shape[1], dtype=torch.bool), cache)

    encoder.forward_one_step = seeing_all
    made = Qwen2LM if version == 2 else CosyVoice3LM
    model = made(s.lm_dim, s.lm_dim, CLASSES, encoder, None).eval()
    model.load_state_dict(lm_weights(s, version))
    marks = [CLASSES + i for i in range(len(model.llm_decoder.weight) - CLASSES)]
    rng = np.random.default_rng(version)
    prompt_text, text = (torch.from_numpy(rng.integers(5, 250, (1, n))) for n in (15, 12))
    prompt = torch.from_numpy(rng.integers(0, CLASSES, (1, 37)))
    found: dict[str, Tensor] = {"prompt_text": prompt_text, "text": text, "prompt": prompt}

    def only(*kept: int) -> list[int]:
        return [m for m in marks if m not in kept]

    def guarded(choose: Any, *kept: int) -> Any:
        """Marks that have no place there are never drawn."""

        def sampling(scores: Tensor, decoded: list[int], k: int) -> int:
            scores[only(*kept)] = -float("inf")
            return choose(scores, decoded, k)

        return sampling

    greedy = lambda scores, decoded, k: int(scores.argmax())
    lengths = [torch.tensor([n]) for n in (12, 15, 37)]
    for name, choose in (("greedy", greedy), ("drawn", Uniforms(7).sampling)):
        model.sampling = guarded(choose, model.eos_token)
        out = model.inference(
            text,
            lengths[0].clone(),
            prompt_text,
            lengths[1],
            prompt,
            lengths[2],
            torch.zeros(0, 192),
        )
        found[name] = torch.tensor([int(t) for t in out])
    text = torch.from_numpy(rng.integers(5, 250, (1, 33)))
    found["streamed_text"] = text
    for name, choose in (("streamed_greedy", greedy), ("streamed_drawn", Uniforms(3).sampling)):
        state = {"final": False}
        pieces = (text[:, i : i + 1] for i in range(text.shape[1]))

        def sampling(
            scores: Tensor, decoded: list[int], k: int, choose: Any = choose, state: Any = state
        ) -> int:
            return guarded(choose, model.eos_token if state["final"] else model.fill_token)(
                scores, decoded, k
            )

        def ending(pieces: Any = pieces, state: Any = state) -> Any:
            yield from pieces
            state["final"] = True

        model.sampling = sampling
        tokens = []
        out = model.inference_bistream(
            ending(), prompt_text, lengths[1], prompt, lengths[2], torch.zeros(0, 192)
        )
        for token in out:
            tokens.append(-1 if state["final"] and -1 not in tokens else int(token))
            if tokens[-1] == -1:
                tokens.append(int(token))
            if len(tokens) > 400:
                break
        found[name] = torch.tensor(tokens)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cosyvoice", type=Path)
    parser.add_argument("matcha", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    stand_ins(args.cosyvoice.resolve(), args.matcha.resolve())
    goldens = {}
    with torch.no_grad():
        for version in (2, 3):
            found = {**flow_goldens(version), **vocoder_goldens(version)}
            if version == 2:
                found |= lm_goldens(version)
            goldens |= {f"{version}.{n}": a.contiguous() for n, a in found.items()}
    save_file(goldens, args.target)
    args.target.chmod(0o644)


if __name__ == "__main__":
    main()
