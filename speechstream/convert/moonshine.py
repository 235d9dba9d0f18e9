"""A streaming Moonshine in: a folder of Hugging Face (config.json, *.safetensors, tokenizer.json) as a bundle.

Weights are copied as they are stored, one tensor at a time.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from speechstream import bundle
from speechstream.bundle import Bundle
from speechstream.config import Section, read_value
from speechstream.convert.qwen import read_tokenizer
from speechstream.convert.stored import (
    check_copy,
    check_kind,
    check_only,
    check_shapes,
    first_line,
    read_json,
    rename,
    tensors,
    write,
)
from speechstream.errors import SpeechStreamError
from speechstream.nn.moonshine import Moonshine, tied
from speechstream.nn.moonshine_config import (
    SAMPLE_RATE,
    MoonshineBundle,
    MoonshineConfig,
    MoonshineDecoderConfig,
    MoonshineEncoderConfig,
)
from speechstream.nn.placed import stored_shapes

ARCHITECTURE, KIND = "moonshine-streaming", "moonshine_streaming"
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
PARTIAL = 0.8  # of each head is rotated
NAMES = (  # pattern of a tensor's name there, its name here
    (r"^model\.", ""),
    (r"^proj_out\.", "decoder.head."),
    (r"^encoder\.embedder\.comp\.log_k$", "encoder.bend"),
    (r"^encoder\.embedder\.linear\.", "encoder.entry."),
    (r"^encoder\.embedder\.", "encoder."),
    (r"^encoder\.final_norm\.", "encoder.norm."),
    (r"^(encoder\.layers\.\d+)\.input_layernorm\.", r"\1.att_norm."),
    (r"^(encoder\.layers\.\d+)\.post_attention_layernorm\.", r"\1.ff_norm."),
    (r"^(decoder\.layers\.\d+)\.input_layernorm\.", r"\1.norm."),
    (r"^(decoder\.layers\.\d+)\.post_attention_layernorm\.", r"\1.cross_norm."),
    (r"^(decoder\.layers\.\d+)\.final_layernorm\.", r"\1.ff_norm."),
    (r"^decoder\.pos_emb\.", "decoder.positions."),
    (r"^decoder\.proj\.", "decoder.entry."),
    (r"^((?:en|de)coder\.layers\.\d+)\.self_attn\.", r"\1."),
    (r"^(decoder\.layers\.\d+)\.encoder_attn\.", r"\1.cross_"),
    (r"^((?:en|de)coder\.layers\.\d+)\.mlp\.fc1\.", r"\1.up_proj."),
    (r"^((?:en|de)coder\.layers\.\d+)\.mlp\.fc2\.", r"\1.down_proj."),
)


def renamed(name: str) -> str | None:
    """Hugging Face's name of a tensor as that of `nn.moonshine.Moonshine`; None: it is left out."""
    if name.endswith("inv_freq"):
        return None
    return rename(name, NAMES)


def convert_moonshine(source: str | Path, target: str | Path, card: dict[str, Any]) -> Bundle:
    """Write a checkpoint's folder as a bundle. Raises SpeechStreamError, in one sentence, for what is not supported."""
    source, target = Path(source), Path(target)
    found = tensors(source, renamed)
    try:
        c = Section(read_json(source / "config.json"))
        network = network_config(c)
        if network.decoder.tied:
            head = found.pop("decoder.head.weight", None)
            check_copy(source, head, found.get("decoder.embed_tokens.weight"))
        _check_features(source)
        read_tokenizer(source / TOKENIZER, network.decoder.vocab_size)
        about = _about(source, c, network)
    except (ValueError, OverflowError, RecursionError) as error:
        raise SpeechStreamError(f"{source} is not supported: {first_line(error)}") from error
    expected = stored_shapes(lambda: Moonshine(network), tied(network))
    check_shapes(source, {n: t.shape for n, t in found.items()}, expected)
    target.mkdir(parents=True, exist_ok=True)
    write(target / WEIGHTS, {n: found[n] for n in expected})
    (target / TOKENIZER).write_bytes((source / TOKENIZER).read_bytes())
    config = dataclasses.asdict(about)
    return bundle.write(target, "asr", ARCHITECTURE, config, card, [WEIGHTS, TOKENIZER])


def network_config(c: Section) -> MoonshineConfig:
    """Hugging Face's config.json as ours. Raises ValueError."""
    check_kind(c, KIND)
    e, rope = c.section("encoder_config"), c.section("rope_parameters")
    for name, section, key, only in (
        ("the encoder's activation", e, "hidden_act", "gelu"),
        ("the decoder's activation", c, "hidden_act", "silu"),
        ("the kind of its rotary positions", rope, "rope_type", "default"),
    ):
        check_only(name, section, key, only)
    if e.integer("sample_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise ValueError(f"it hears {e.integer('sample_rate')} Hz, and only {SAMPLE_RATE} is read")
    frame = SAMPLE_RATE * e.number("frame_ms", 5.0) / 1000
    if frame != 80:
        raise ValueError(
            f"its frames have {frame:g} samples, and only 80, which are 5 ms, are read"
        )
    encoder = _encoder(e, int(frame))
    dim, heads = c.integer("hidden_size", 320), c.integer("num_attention_heads", 8)
    if c.integer("num_key_value_heads", heads) != heads:
        raise ValueError("its decoder shares keys among heads, which the reference cannot")
    head_dim = c.integer("head_dim", dim // max(heads, 1))
    partial = rope.number("partial_rotary_factor", PARTIAL)
    if not 0 < partial <= 1:
        raise ValueError(f"partial_rotary_factor is {partial:g}, expected above 0 and at most 1")
    decoder = MoonshineDecoderConfig(
        vocab_size=c.integer("vocab_size", 32768),
        dim=dim,
        layers=c.integer("num_hidden_layers", 6),
        heads=heads,
        head_dim=head_dim,
        ff_dim=c.integer("intermediate_size", 1280),
        rotary_dim=int(head_dim * partial),
        rope_base=rope.number("rope_theta", 10_000.0),
        positions=c.integer("max_position_embeddings", 4096),
        bias=c.flag("attention_bias", False),
        tied=c.flag("tie_word_embeddings", False),
    )
    return MoonshineConfig(encoder, decoder)


def _encoder(e: Section, frame: int) -> MoonshineEncoderConfig:
    dim, heads = e.integer("hidden_size", 320), e.integer("num_attention_heads", 8)
    given = e.raw("sliding_windows")
    default = [[16, 4], [16, 4], [16, 0], [16, 0], [16, 4], [16, 4]]
    pairs = read_value(
        tuple[tuple[int, int], ...], default if given is None else given, "sliding_windows"
    )
    return MoonshineEncoderConfig(
        dim=dim,
        layers=e.integer("num_hidden_layers", 6),
        heads=heads,
        kv_heads=e.integer("num_key_value_heads", heads),
        head_dim=e.integer("head_dim", dim // max(heads, 1)),
        ff_dim=e.integer("intermediate_size", 1280),
        frame=frame,
        bias=e.flag("attention_bias", False),
        # what it looks ahead counts the frame itself there
        windows=tuple((before, max(after - 1, min(after, 0))) for before, after in pairs),
    )


def _check_features(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return
    s = Section(read_json(path), path.name)
    if s.integer("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE or s.integer("feature_size", 1) != 1:
        raise ValueError(f"its {path.name} is not that of raw sound at {SAMPLE_RATE} Hz")
    if s.flag("do_normalize", False):
        raise ValueError("it scales a recording by all of its samples: that cannot stream")


def _about(folder: Path, c: Section, network: MoonshineConfig) -> MoonshineBundle:
    sources = [c]
    if (folder / "generation_config.json").is_file():
        sources.insert(0, Section(read_json(folder / "generation_config.json")))
    found = {}
    for key in ("decoder_start_token_id", "bos_token_id", "eos_token_id"):
        found[key] = next((s.raw(key) for s in sources if key in s), None)
    start = found["decoder_start_token_id"]
    start = found["bos_token_id"] if start is None else start
    ends = 2 if found["eos_token_id"] is None else found["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    return MoonshineBundle(
        network,
        read_value(int, 1 if start is None else start, "decoder_start_token_id"),
        read_value(tuple[int, ...], ends, "eos_token_id"),
    )
