"""Qwen2.5-Omni in: a folder of Hugging Face as a bundle of a thinker-talker model. Sound and text; its vision is left out.

Weights of encoder, thinker and talker are copied as they are stored, one tensor at a time. The decoder of codes is stored
in 32 bits, as the reference runs it, and of each speaker the vector that the speaker encoder makes of the recording.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from speechstream import bundle
from speechstream.bundle import Bundle
from speechstream.config import Section, read_value
from speechstream.convert import flow, pickled, stored
from speechstream.convert.qwen import ENCODER_NAMES, check_features, ends, qwen_text, read_tokenizer
from speechstream.convert.stored import (
    Stored,
    check_kind,
    check_only,
    check_shapes,
    first_line,
    read_json,
    rename,
    tensors,
)
from speechstream.errors import SpeechStreamError
from speechstream.nn.ecapa import Ecapa
from speechstream.nn.omni import Omni
from speechstream.nn.omni_config import OmniBundle, OmniConfig, OmniEncoderConfig, TalkerConfig
from speechstream.nn.token2wav import Token2Wav

ARCHITECTURE, KIND = "thinker-talker", "qwen2_5_omni"
WEIGHTS, SPEECH, SPEAKERS, TOKENIZER = (
    "model.safetensors",
    "speech.safetensors",
    "speakers.safetensors",
    "tokenizer.json",
)
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
MOST_SPEAKERS = 64 << 20  # bytes of spk_dict.pt
# The model speaks as it was trained to only where it is told this first (its model card).
SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and visual "
    "inputs, as well as generating text and speech."
)
LM_DEFAULTS = {  # of both language models, where config.json leaves them out
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
NAMES = (  # pattern of a tensor's name there, its name here
    (r"^thinker\.(model\.)?audio_tower\.", "encoder."),
    *ENCODER_NAMES,
    (r"^thinker\.model\.language_model\.", "thinker.model."),
    (r"^talker\.model\.", "talker."),
    (r"^talker\.thinker_to_talker_proj\.", "talker.proj."),
    (r"^talker\.codec_head\.", "talker.head."),
)
LEFT_OUT = re.compile(
    r"^thinker\.(model\.)?visual\.|audio_bos_eos_token|positional_embedding|inv_freq$|\.filter$"
)
DIT, VOCODER = "token2wav.code2wav_dit_model.", "token2wav.code2wav_bigvgan_model."


def renamed(name: str) -> str | None:
    """Hugging Face's name of a tensor as that of `nn.omni.Omni`, or as it is for the decoder; None: it is left out."""
    if LEFT_OUT.search(name):
        return None
    return rename(name, NAMES)


def convert_omni(source: str | Path, target: str | Path, card: dict[str, Any]) -> Bundle:
    """Write a checkpoint's folder as a bundle. Raises SpeechStreamError, in one sentence, for what is not supported."""
    source, target = Path(source), Path(target)
    found = _tensors(source)
    try:
        config = Section(read_json(source / "config.json"))
        network = network_config(config, tied="thinker.lm_head.weight" not in found)
        check_features(source, network.encoder.n_mels)
        voices = _speakers(source / "spk_dict.pt", config, network)
        about = _about(
            source, config, network, {name: v["bos_token"] for name, v in voices.items()}
        )
        with torch.device("meta"):
            expected = {k: tuple(v.shape) for k, v in Omni(network).state_dict().items()}
            decoding = Token2Wav(network.flow, network.vocoder).state_dict()
        speaking = flow.qwen_speaker_config(_sound(config, "dit_config"))
    except (ValueError, OverflowError, RecursionError) as error:
        raise SpeechStreamError(f"{source} is not supported: {first_line(error)}") from error
    if network.thinker.tied:
        expected.pop("thinker.lm_head.weight")
    given = {n: t for n, t in found.items() if not n.startswith("token2wav.")}
    check_shapes(source, {n: t.shape for n, t in given.items()}, expected)
    parts = {n: t for n, t in found.items() if n.startswith((DIT, VOCODER))}
    weights = _decoder(source, parts, network, speaking.dim)
    check_shapes(
        source,
        {n: tuple(t.shape) for n, t in weights.items()},
        {n: tuple(t.shape) for n, t in decoding.items()},
    )
    vectors = _vectors(source, parts, speaking, voices)
    target.mkdir(parents=True, exist_ok=True)
    stored.write(target / WEIGHTS, {n: given[n] for n in expected})
    save_file({n: t.contiguous() for n, t in weights.items()}, target / SPEECH)
    save_file(vectors, target / SPEAKERS)
    (target / TOKENIZER).write_bytes((source / TOKENIZER).read_bytes())
    files = [WEIGHTS, SPEECH, SPEAKERS, TOKENIZER]
    return bundle.write(target, "talk", ARCHITECTURE, dataclasses.asdict(about), card, files)


def network_config(c: Section, tied: bool = False) -> OmniConfig:
    """Hugging Face's config.json as ours. tied: the thinker has no output layer. Raises ValueError or SpeechStreamError."""
    check_kind(c, KIND)
    if not c.flag("enable_audio_output", True):
        raise ValueError("it has no talker (enable_audio_output is false): it cannot speak")
    thinker, talker = c.section("thinker_config"), c.section("talker_config")
    a = thinker.section("audio_config")
    check_only("its audio encoder's activation", a, "activation_function", "gelu")
    for section in (thinker, talker):
        if section.number("position_id_per_seconds", 25) != 25:
            raise ValueError("its positions are not 25 a second, one for each token of sound")
    encoder = OmniEncoderConfig(
        n_mels=a.integer("num_mel_bins", 128),
        dim=a.integer("d_model", 1280),
        layers=a.integer("encoder_layers", 32),
        heads=a.integer("encoder_attention_heads", 20),
        ff_dim=a.integer("encoder_ffn_dim", 5120),
        window=a.integer("n_window", 100),
        out_dim=a.integer("output_dim", 3584),
    )
    if encoder.window > a.integer("max_source_positions", 1500):
        raise ValueError("a block of its audio encoder has more frames than it has positions")
    marks = TalkerConfig(
        lm=qwen_text(talker, LM_DEFAULTS | {"vocab_size": 8448, "head_dim": 128}, tied=False),
        input_dim=talker.integer("embedding_size", 3584),
        start=talker.integer("tts_codec_start_token_id", 8293),
        pad=talker.integer("tts_codec_pad_token_id", 8292),
        end=talker.integer("tts_codec_end_token_id", 8294),
        mask=talker.integer("tts_codec_mask_token_id", 8296),
    )
    return OmniConfig(
        encoder,
        qwen_text(thinker.section("text_config"), LM_DEFAULTS | {"vocab_size": 152064}, tied),
        marks,
        flow.qwen_config(_sound(c, "dit_config")),
        flow.qwen_vocoder_config(_sound(c, "bigvgan_config")),
    )


def _sound(c: Section, key: str) -> dict[str, Any]:
    """A part of the decoder's configuration, as it stands there."""
    value = c.section("token2wav_config").raw(key)
    return read_value(dict[str, Any], {} if value is None else value, f"token2wav_config.{key}")


def _about(folder: Path, c: Section, network: OmniConfig, speakers: dict[str, int]) -> OmniBundle:
    words = read_tokenizer(folder / TOKENIZER, network.thinker.vocab_size)
    for name in ("<|im_start|>", "<|im_end|>"):
        if words.id(name) is None:
            raise ValueError(f"its tokenizer has no {name}: it is of another model")
    stop = ends(folder, words)
    thinker, talker = c.section("thinker_config"), c.section("talker_config")
    return OmniBundle(
        network,
        thinker.integer("audio_start_token_id", 151647),
        thinker.integer("audio_end_token_id", 151648),
        stop,
        talker.integer("tts_text_end_token_id", 151861),
        talker.integer("tts_text_pad_token_id", 151859),
        speakers,
        SYSTEM,
    )


def _speakers(path: Path, c: Section, network: OmniConfig) -> dict[str, dict[str, Any]]:
    """spk_dict.pt, checked: nothing in it is executed."""
    if not path.is_file():
        raise ValueError(f"it has no {path.name}, which holds its speakers")
    if path.stat().st_size > MOST_SPEAKERS:
        raise ValueError(f"its {path.name} is too long to be what its name says")
    found = pickled.load(path)
    if not isinstance(found, dict) or not found:
        raise ValueError(f"its {path.name} holds no speakers")
    embedding, mels = (
        Section(_sound(c, "dit_config")).integer("enc_emb_dim", 192),
        network.flow.n_mels,
    )
    for name, v in found.items():
        whole = isinstance(name, str) and isinstance(v, dict)
        if not whole or type(v.get("bos_token")) is not int:
            raise ValueError(f"its {path.name} does not describe speakers")
        for key, shape in (("cond", (1, embedding)), ("ref_mel", (1, None, mels))):
            x = v.get(key)
            good = isinstance(x, Tensor) and x.ndim == len(shape) and x.is_floating_point()
            if not good or any(n not in (None, m) for n, m in zip(shape, x.shape)):
                raise ValueError(f"{key} of its speaker {name[:40]!r} is not what it should be")
            if not torch.isfinite(x).all():
                raise ValueError(f"{key} of its speaker {name[:40]!r} holds NaN or infinity")
    return found


def _decoder(
    source: Path, parts: dict[str, Stored], network: OmniConfig, speaker_dim: int
) -> dict[str, Tensor]:
    """The weights of `nn.token2wav.Token2Wav`."""
    kept = {n: t for n, t in parts.items() if ".spk_encoder." not in n}
    wide = network.flow.input_dim
    entry = kept.get(f"{DIT}input_embed.proj.weight")
    if entry is None or len(entry.shape) != 2 or entry.shape[1] != wide:
        raise SpeechStreamError(
            f"{source} lacks {DIT}input_embed.proj.weight, or it does not take {wide} channels as its config says"
        )
    weights = {n: _tensor(t) for n, t in kept.items()}
    dit = {n.removeprefix(DIT): t for n, t in weights.items() if n.startswith(DIT)}
    voc = {n.removeprefix(VOCODER): t for n, t in weights.items() if n.startswith(VOCODER)}
    try:
        ours = flow.qwen_weights(dit, network.flow, speaker_dim)
    except (RuntimeError, IndexError) as error:
        raise SpeechStreamError(
            f"{source}: a tensor of its token2wav has another shape than its config says"
        ) from error
    found = {f"flow.{n}": t for n, t in ours.items()}
    return found | {f"vocoder.{n}": t for n, t in flow.qwen_vocoder_weights(voc).items()}


def _vectors(
    source: Path, parts: dict[str, Stored], config: Any, voices: dict[str, dict[str, Any]]
) -> dict[str, Tensor]:
    """Of each speaker the vector that the decoder takes, and that of guidance's other half."""
    given = {n: t for n, t in parts.items() if ".spk_encoder." in n}
    weights = flow.qwen_speaker_weights({n: _tensor(t) for n, t in given.items()})
    with torch.device("meta"):
        expected = {n: tuple(t.shape) for n, t in Ecapa(config).state_dict().items()}
    check_shapes(source, {n: tuple(t.shape) for n, t in weights.items()}, expected)
    encoder, vectors, nulls = flow.load(Ecapa(config), weights), [], []
    with torch.inference_mode():
        for name, v in voices.items():
            mel, embedding = v["ref_mel"].float(), v["cond"].float()
            try:
                vectors.append(torch.cat([encoder(mel), embedding], 1))
                nothing = encoder(torch.zeros_like(mel)), torch.zeros_like(embedding)
            except ValueError as error:
                raise SpeechStreamError(f"{source}: its speaker {name[:40]!r}: {error}") from error
            nulls.append(torch.cat(nothing, 1))
    return {"vectors": torch.cat(vectors).clone(), "nulls": torch.cat(nulls).clone()}


def _tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor that is wanted of the folder's *.safetensors, under its name here."""
    return tensors(folder, renamed)


def _tensor(t: Stored) -> Tensor:
    """In 32 bits. Raises SpeechStreamError for NaN and infinity."""
    raw = bytearray(t.read().tobytes())
    if not raw:
        return torch.zeros(t.shape)
    return torch.frombuffer(raw, dtype=DTYPES[t.dtype]).reshape(t.shape).float()
