"""Make a tiny CosyVoice 2 or 3 of random weights, in the layout in which they are published.

    python -m tools.make_tiny_cosyvoice FOLDER [--version 3]

It says nothing, but every file has the form that a trained one has: cosyvoice2.yaml, llm.pt, flow.pt, hift.pt, Qwen's
folder with its tokenizer, and small graphs in the places of campplus.onnx and speech_tokenizer_v2.onnx.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from speechstream.export.graph import Writer

SPEAKER, CLASSES = 12, 40  # sizes of a speaker's vector; speech tokens
TEXT_ROWS = 300
YAML = {
    2: """sample_rate: {rate}
llm_input_size: {lm_dim}
token_mel_ratio: 2
chunk_size: {block}
llm: !new:cosyvoice.llm.llm.Qwen2LM
    llm_input_size: !ref <llm_input_size>
    speech_token_size: {classes}
    mix_ratio: [5, 15]
    sampling: !name:cosyvoice.utils.common.ras_sampling
        top_p: 0.8
        top_k: 25
        win_size: 10
        tau_r: 0.1
flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithXvec
    input_size: {dim}
    output_size: {mels}
    spk_embed_dim: {speaker}
    vocab_size: {classes}
    token_mel_ratio: !ref <token_mel_ratio>
    pre_lookahead_len: 3
    encoder: !new:cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder
        output_size: {dim}
        attention_heads: {heads}
        linear_units: {ff}
        num_blocks: {layers}
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        use_cnn_module: False
        macaron_style: False
        static_chunk_size: !ref <chunk_size>
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
        cfm_params: !new:omegaconf.DictConfig
            content: {{solver: 'euler', t_scheduler: 'cosine', inference_cfg_rate: 0.7}}
        estimator: !new:cosyvoice.flow.decoder.CausalConditionalDecoder
            in_channels: {unet_in}
            out_channels: {mels}
            channels: [{width}]
            attention_head_dim: 8
            n_blocks: 1
            num_mid_blocks: 1
            num_heads: 2
            act_fn: 'gelu'
            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>
hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
""",
    3: """sample_rate: {rate}
token_mel_ratio: 2
chunk_size: {block}
llm: !new:cosyvoice.llm.llm.CosyVoice3LM
    speech_token_size: {classes}
    mix_ratio: [5, 15]
flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithDiT
    input_size: {mels}
    output_size: {mels}
    spk_embed_dim: {speaker}
    vocab_size: {classes}
    token_mel_ratio: !ref <token_mel_ratio>
    pre_lookahead_len: 3
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
        cfm_params: !new:omegaconf.DictConfig
            content: {{solver: 'euler', t_scheduler: 'cosine', inference_cfg_rate: 0.7}}
        estimator: !new:cosyvoice.flow.DiT.dit.DiT
            dim: 32
            depth: 2
            heads: 2
            dim_head: 16
            ff_mult: 2
            mel_dim: {mels}
            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>
hift: !new:cosyvoice.hifigan.generator.CausalHiFTGenerator
    conv_pre_look_right: 4
""",
}
HIFT = """    in_channels: {mels}
    base_channels: 16
    nb_harmonics: 2
    sampling_rate: !ref <sample_rate>
    upsample_rates: [4, 3]
    upsample_kernel_sizes: [8, 5]
    istft_params: {{n_fft: 16, hop_len: 4}}
    resblock_kernel_sizes: [3, 5]
    resblock_dilation_sizes: [[1, 2], [1, 2]]
    source_resblock_kernel_sizes: [3, 5]
    source_resblock_dilation_sizes: [[1, 2], [1, 2]]
    f0_predictor:
        cond_channels: 6
feat_extractor: !name:matcha.utils.audio.mel_spectrogram
    n_fft: 192
    num_mels: {mels}
    sampling_rate: !ref <sample_rate>
    hop_size: 48
    win_size: 192
    fmin: 0
    fmax: {top}
"""


@dataclass(frozen=True)
class Sizes:
    """What may differ between tiny ones."""

    lm_dim: int = 32
    lm_layers: int = 2
    dim: int = 16
    heads: int = 2
    ff: int = 24
    layers: int = 2
    up_layers: int = 1
    mels: int = 8
    width: int = 16  # of the U-Net
    block: int = 5


class Maker:
    """Random tensors by their names."""

    def __init__(self, seed: int) -> None:
        self.random, self.made = torch.Generator().manual_seed(seed), dict[str, Tensor]()

    def tensor(self, name: str, *shape: int, scale: float | None = None) -> None:
        if scale is None:
            fan = int(np.prod(shape[1:])) if len(shape) > 1 else 100
            scale = fan**-0.5
        self.made[name] = scale * torch.randn(shape, generator=self.random)

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        """A linear layer or a convolution."""
        self.tensor(f"{name}.weight", *shape)
        if bias:
            self.tensor(f"{name}.bias", shape[0])

    def norm(self, name: str, size: int, bias: bool = True) -> None:
        self.made[f"{name}.weight"] = 1 + 0.1 * torch.randn(size, generator=self.random)
        if bias:
            self.tensor(f"{name}.bias", size)

    def weight_normed(self, name: str, *shape: int) -> None:
        self.layer(name, *shape)
        v = self.made.pop(f"{name}.weight")
        at = f"{name}.parametrizations.weight.original"
        self.made[f"{at}0"] = v.norm(dim=(1, 2), keepdim=True)
        self.made[f"{at}1"] = 3 * v


def lm_weights(s: Sizes, version: int, seed: int = 0) -> dict[str, Tensor]:
    m, at = Maker(seed), "llm.model.model."
    m.tensor(at + "embed_tokens.weight", TEXT_ROWS, s.lm_dim, scale=1)
    m.tensor("llm.model.lm_head.weight", TEXT_ROWS, s.lm_dim)
    for i in range(s.lm_layers):
        layer = f"{at}layers.{i}."
        for n, rows in (("q", s.lm_dim), ("k", s.lm_dim // 2), ("v", s.lm_dim // 2)):
            m.layer(f"{layer}self_attn.{n}_proj", rows, s.lm_dim)
        m.layer(f"{layer}self_attn.o_proj", s.lm_dim, s.lm_dim, bias=False)
        for n in ("gate", "up"):
            m.layer(f"{layer}mlp.{n}_proj", 2 * s.lm_dim, s.lm_dim, bias=False)
        m.layer(f"{layer}mlp.down_proj", s.lm_dim, 2 * s.lm_dim, bias=False)
        for n in ("input_layernorm", "post_attention_layernorm"):
            m.norm(layer + n, s.lm_dim, bias=False)
    m.norm(at + "norm", s.lm_dim, bias=False)
    rows = CLASSES + (3 if version == 2 else 200)
    m.layer("llm_decoder", rows, s.lm_dim, bias=version == 2)
    m.made["llm_decoder.weight"] *= 3  # so that one token is likelier than another
    if version == 2:
        m.made["llm_decoder.bias"][CLASSES] += 4  # an utterance ends soon
    m.tensor("speech_embedding.weight", rows, s.lm_dim, scale=1)
    if version == 2:
        m.tensor("llm_embedding.weight", 2, s.lm_dim, scale=1)
    return m.made


def flow_weights(s: Sizes, version: int, seed: int = 1) -> dict[str, Tensor]:
    m = Maker(seed)
    width = s.dim if version == 2 else s.mels
    m.tensor("input_embedding.weight", CLASSES, width, scale=1)
    m.layer("spk_embed_affine_layer", s.mels, SPEAKER)
    at = "encoder." if version == 2 else ""
    m.layer(f"{at}pre_lookahead_layer.conv1", s.dim, width, 4)
    m.layer(f"{at}pre_lookahead_layer.conv2", width, s.dim, 3)
    if version == 2:
        _conformer(m, s)
        _unet(m, s)
    else:
        _dit(m, s)
    return m.made


def _conformer(m: Maker, s: Sizes) -> None:
    for name in ("embed", "up_embed"):
        m.layer(f"encoder.{name}.out.0", s.dim, s.dim)
        m.norm(f"encoder.{name}.out.1", s.dim)
    m.layer("encoder.up_layer.conv", s.dim, s.dim, 5)
    m.norm("encoder.after_norm", s.dim)
    m.layer("encoder_proj", s.mels, s.dim)
    for part, count in (("encoders", s.layers), ("up_encoders", s.up_layers)):
        for i in range(count):
            layer = f"encoder.{part}.{i}."
            for n in ("q", "k", "v", "out"):
                m.layer(f"{layer}self_attn.linear_{n}", s.dim, s.dim)
            m.layer(f"{layer}self_attn.linear_pos", s.dim, s.dim, bias=False)
            for n in "uv":
                m.tensor(f"{layer}self_attn.pos_bias_{n}", s.heads, s.dim // s.heads, scale=0.5)
            m.layer(f"{layer}feed_forward.w_1", s.ff, s.dim)
            m.layer(f"{layer}feed_forward.w_2", s.dim, s.ff)
            m.norm(f"{layer}norm_mha", s.dim)
            m.norm(f"{layer}norm_ff", s.dim)


def _unet(m: Maker, s: Sizes) -> None:
    at, w, given, time = "decoder.estimator.", s.width, 4 * s.mels, 4 * s.width
    m.layer(at + "time_mlp.linear_1", time, given)
    m.layer(at + "time_mlp.linear_2", time, time)
    for block, inputs in (("down_blocks.0", given), ("mid_blocks.0", w), ("up_blocks.0", 2 * w)):
        resnet = f"{at}{block}.0."
        for n, own in (("block1", inputs), ("block2", w)):
            m.layer(f"{resnet}{n}.block.0", w, own, 3)
            m.norm(f"{resnet}{n}.block.2", w)
        m.layer(f"{resnet}mlp.1", w, time)
        m.layer(f"{resnet}res_conv", w, inputs, 1)
        layer = f"{at}{block}.1.0."
        for n in "qkv":
            m.layer(f"{layer}attn1.to_{n}", 16, w, bias=False)
        m.layer(f"{layer}attn1.to_out.0", w, 16)
        m.norm(f"{layer}norm1", w)
        m.norm(f"{layer}norm3", w)
        m.layer(f"{layer}ff.net.0.proj", 4 * w, w)
        m.layer(f"{layer}ff.net.2", w, 4 * w)
    for block in ("down_blocks.0", "up_blocks.0"):
        m.layer(f"{at}{block}.2", w, w, 3)
    m.layer(at + "final_block.block.0", w, w, 3)
    m.norm(at + "final_block.block.2", w)
    m.layer(at + "final_proj", s.mels, w, 1)


def _dit(m: Maker, s: Sizes) -> None:
    at, dim = "decoder.estimator.", 32
    m.layer(at + "time_embed.time_mlp.0", dim, 256)
    m.layer(at + "time_embed.time_mlp.2", dim, dim)
    m.layer(at + "input_embed.proj", dim, 4 * s.mels)
    for n in (1, 2):
        m.layer(f"{at}input_embed.conv_pos_embed.conv{n}.0", dim, dim // 16, 31)
    m.made[at + "rotary_embed.inv_freq"] = 10_000 ** (-torch.arange(8) / 8)
    for i in range(2):
        layer = f"{at}transformer_blocks.{i}."
        m.layer(f"{layer}attn_norm.linear", 6 * dim, dim)
        for n in ("to_q", "to_k", "to_v", "to_out.0"):
            m.layer(f"{layer}attn.{n}", dim, dim)
        m.layer(f"{layer}ff.ff.0.0", 2 * dim, dim)
        m.layer(f"{layer}ff.ff.2", dim, 2 * dim)
    m.layer(at + "norm_out.linear", 2 * dim, dim)
    m.layer(at + "proj_out", s.mels, dim)


def hift_weights(s: Sizes, version: int, seed: int = 2) -> dict[str, Tensor]:
    m, bins = Maker(seed), 18
    for i in range(5):
        first = s.mels if not i else 6
        m.weight_normed(
            f"f0_predictor.condnet.{2 * i}", 6, first, 4 if version == 3 and not i else 3
        )
    m.layer("f0_predictor.classifier", 1, 6)
    m.made["f0_predictor.classifier.weight"] *= 200  # Hz
    m.layer("m_source.l_linear", 1, 3)
    m.weight_normed("conv_pre", 16, s.mels, 5 if version == 3 else 7)
    for i, (kernel, own, source, rest) in enumerate(((8, 16, 3, 3), (5, 8, 5, 1))):
        channels = own // 2
        shape = (own, channels) if version == 2 else (channels, own)
        m.weight_normed(f"ups.{i}", *shape, kernel)
        if version == 2:
            m.tensor(f"ups.{i}.bias", channels)
        m.layer(f"source_downs.{i}", channels, bins, 2 * rest if rest > 1 else 1)
        _blocks(m, f"source_resblocks.{i}", channels, source)
        for j, size in enumerate((3, 5)):
            _blocks(m, f"resblocks.{2 * i + j}", channels, size)
    m.weight_normed("conv_post", bins, 4, 7)
    m.made["conv_post.bias"][:9] -= 2  # magnitudes well below full scale
    return m.made


def _blocks(m: Maker, name: str, channels: int, kernel: int) -> None:
    for i in range(2):
        for n in (1, 2):
            m.weight_normed(f"{name}.convs{n}.{i}", channels, channels, kernel)
            m.made[f"{name}.activations{n}.{i}.alpha"] = torch.ones(channels)


def write(
    folder: str | Path, version: int = 2, sizes: Sizes = Sizes(), rate: int = 2400, seed: int = 0
) -> Path:
    """A checkpoint's folder."""
    folder, s = Path(folder), sizes
    qwen = folder / "CosyVoice-BlankEN"
    qwen.mkdir(parents=True, exist_ok=True)
    values = dict(
        vars(s),
        rate=rate,
        classes=CLASSES,
        speaker=SPEAKER,
        unet_in=4 * s.mels,
        top=1000 if version == 2 else "null",
    )
    text = (YAML[version] + HIFT).format(**values)
    (folder / f"cosyvoice{version}.yaml").write_text(text, encoding="utf-8")
    torch.save(lm_weights(s, version, seed), folder / "llm.pt")
    torch.save(flow_weights(s, version, seed + 1), folder / "flow.pt")
    hift = hift_weights(s, version, seed + 2)
    torch.save({f"generator.{n}": w for n, w in hift.items()}, folder / "hift.pt")
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": s.lm_dim,
        "num_hidden_layers": s.lm_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 2 * s.lm_dim,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "vocab_size": TEXT_ROWS,
    }
    (qwen / "config.json").write_text(json.dumps(config), encoding="utf-8")
    _tokenizer(qwen)
    onnx.save(_speaker_graph(), folder / "campplus.onnx")
    onnx.save(_speech_graph(), folder / f"speech_tokenizer_v{version}.onnx")
    return folder


def _tokenizer(folder: Path) -> None:
    from tokenizers import pre_tokenizers

    merges = ["t h", "i n", "Ġ t", "Ġt h"]
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + [m.replace(" ", "") for m in merges]
    vocabulary = {p: i for i, p in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = "\n".join(["#version: 0.2", *merges])
    (folder / "merges.txt").write_text(lines + "\n", encoding="utf-8")


def _speaker_graph() -> onnx.ModelProto:
    """Filter banks (1, T, 80) to a vector."""
    w = Writer()
    banks = w.input("input", "float32", [1, "T", 80])
    mean = w.op("ReduceMean", banks, w.const([1]), keepdims=0)
    spread = w.op("ReduceMax", banks, w.const([1]), keepdims=0)
    table = np.random.default_rng(0).standard_normal((80, SPEAKER)).astype(np.float32)
    both = w.op("Add", mean, spread)
    w.output("output", w.op("MatMul", both, w.tensor(table, "table")), "float32", [1, SPEAKER])
    return w.model()


def _speech_graph() -> onnx.ModelProto:
    """Spectra (1, 128, T) to a token every four frames: which band is the loudest."""
    w = Writer()
    spectra = w.input("feats", "float32", [1, 128, "T"])
    length = w.input("feats_length", "int32", [1])
    bands = w.slice(spectra, 0, CLASSES, 1)
    few = w.op("Slice", bands, w.const([0]), w.const([1 << 30]), w.const([2]), w.const([4]))
    loudest = w.op("ArgMax", few, axis=1, keepdims=0)
    none = w.op("Mul", w.op("Cast", length, to=onnx.TensorProto.INT64), w.const([0]))
    w.output("indices", w.op("Add", loudest, none), "int64", [1, "N"])
    return w.model()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--version", type=int, choices=(2, 3), default=2)
    args = parser.parse_args()
    write(args.folder, args.version)


if __name__ == "__main__":
    main()
