"""Load CosyVoice 2 and 3 checkpoints: the folder as it is published.

    FOLDER/cosyvoice2.yaml | cosyvoice3.yaml    sizes
    FOLDER/llm.pt, flow.pt, hift.pt             weights
    FOLDER/CosyVoice-BlankEN/                   sizes of the language model (config.json) and its tokenizer
    FOLDER/spk2info.pt                          voices, where there are some
    FOLDER/campplus.onnx, speech_tokenizer_v2.onnx (v3)    for voices from recordings

Pickles are read as tensors alone and the YAML as plain values: nothing in a checkpoint is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from speechstream.audio import io
from speechstream.config import Section
from speechstream.convert import flow as names, pickled
from speechstream.convert.cosyvoice_config import (
    YAMLS,
    Options,
    flow_config,
    mel_config,
    read_yaml,
    speech_sampling,
    token_config,
    vocoder_config,
)
from speechstream.convert.cosyvoice_prompt import MelConfig, PromptReader
from speechstream.convert.llm import LlmCheckpoint, shapes
from speechstream.convert.llm_config import from_hugging_face
from speechstream.convert.qwen_tokenizer import qwen_tokenizer
from speechstream.errors import SpeechStreamError
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.cosyvoice_config import CosyVoiceConfig, SpeechLmConfig
from speechstream.nn.flow import FlowDecoder
from speechstream.nn.flow_vocoder import FlowVocoder
from speechstream.nn.hift import HiftVocoder
from speechstream.nn.llm_config import LlmConfig
from speechstream.nn.token_encoder import TokenEncoder
from speechstream.nn.vocoder_config import HiftConfig
from speechstream.tts.cosyvoice.network import VoicePrompt, check_voice

QWEN = "CosyVoice-BlankEN"  # the folder of the language model's sizes and tokenizer
MOST_JSON = 64 << 20  # bytes of a JSON file
SPEECH_TOKENIZERS = {2: "speech_tokenizer_v2.onnx", 3: "speech_tokenizer_v3.onnx"}
INSTRUCTION = "You are a helpful assistant.<|endofprompt|>"  # before a CosyVoice 3's prompt
UNNAMED = "default"
_NAME = re.compile(r"[\w][\w .-]{0,63}")
_OWN = ("speech_embedding.weight", "llm_embedding.weight", "llm_decoder.weight", "llm_decoder.bias")
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Recording:
    """A voice to be: a recording and what it says."""

    name: str
    path: Path
    text: str


@dataclass(frozen=True)
class CosyVoiceCheckpoint:
    """A CosyVoice as it was found. tokenizer: the text of a tokenizer.json."""

    config: CosyVoiceConfig
    lm: LlmCheckpoint
    encoder: TokenEncoder
    decoder: FlowDecoder
    vocoder: FlowVocoder | HiftVocoder
    voices: dict[str, VoicePrompt]
    tokenizer: str
    name: str = "CosyVoice"


def is_cosyvoice(path: str | Path) -> bool:
    """Whether a folder looks like a CosyVoice 2 or 3 (whether it is one, `load_cosyvoice` says)."""
    return any((Path(path) / name).is_file() for name in YAMLS)


def load_cosyvoice(
    path: str | Path, options: Options | None = None, recordings: tuple[Recording, ...] = ()
) -> CosyVoiceCheckpoint:
    """Read a checkpoint. Raises SpeechStreamError, in one sentence, for what is no usable CosyVoice."""
    folder, options = Path(path), options or Options()
    version, yaml = read_yaml(folder)
    try:
        return _load(folder, version, Section(yaml), options, recordings)
    except (ValueError, TypeError, OverflowError) as error:
        raise SpeechStreamError(
            f"{folder} does not describe a usable CosyVoice: {str(error)[:300]}"
        ) from error


def _load(
    folder: Path, version: int, yaml: Section, options: Options, recordings: tuple[Recording, ...]
) -> CosyVoiceCheckpoint:
    llm, flow, hift = (weights(folder / f"{n}.pt") for n in ("llm", "flow", "hift"))
    hift = {n.removeprefix("generator."): w for n, w in hift.items()}
    lm, speech = language_model(folder, version, yaml, llm)
    vocoder = vocoder_config(yaml, version)
    estimator = {
        n.removeprefix("decoder.estimator."): w
        for n, w in flow.items()
        if n.startswith("decoder.estimator.")
    }
    rate = vocoder.sample_rate / vocoder.frame_size
    tokens = token_config(yaml, flow, options.look_back_s, rate)
    transformer = any(n.startswith("transformer_blocks.") for n in estimator)
    flow_sizes = flow_config(yaml, tokens, options, rate, transformer)
    renamed = names.cosyvoice2_weights if flow_sizes.unet is not None else names.cosyvoice3_weights
    try:
        own = [
            names.cosyvoice_token_weights(flow),
            renamed(estimator, flow_sizes),
            names.cosyvoice_vocoder_weights(hift),
        ]
    except (RuntimeError, IndexError) as error:  # of torch, where they are cut and put together
        raise SpeechStreamError(
            f"{folder}: a tensor has another shape than its configuration says"
        ) from error
    encoder = fitted(lambda: TokenEncoder(tokens), own[0], folder)
    decoder = fitted(lambda: FlowDecoder(flow_sizes), own[1], folder)
    sound: FlowVocoder | HiftVocoder
    if isinstance(vocoder, HiftConfig):
        sound = fitted(lambda: HiftVocoder(vocoder), own[2], folder)
    else:
        sound = fitted(lambda: FlowVocoder(vocoder), own[2], folder)
    tokenizer = qwen_tokenizer(folder / QWEN, version)
    reading = Tokenizer(tokenizer)
    if len(reading) > speech.speech:
        raise SpeechStreamError(
            f"{folder}: its tokenizer has {len(reading)} tokens, and its language model knows {speech.speech}"
        )
    mel = lambda: mel_config(yaml, vocoder)
    voices = _voices(folder, version, encoder, reading, mel, recordings)
    config = CosyVoiceConfig(
        version,
        speech,
        tokens,
        flow_sizes,
        tuple(voices),
        speech_sampling(yaml),
        None if isinstance(vocoder, HiftConfig) else vocoder,
        vocoder if isinstance(vocoder, HiftConfig) else None,
        options.language,
        options.mode,
    )
    for voice, prompt in voices.items():
        try:
            check_voice(prompt, config)
        except ValueError as error:
            raise SpeechStreamError(
                f"{folder}: its voice {voice[:40]!r} is not usable: {error}"
            ) from error
    name = folder.resolve().name
    return CosyVoiceCheckpoint(config, lm, encoder, decoder, sound, voices, tokenizer, name)


def weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pt file in 32 bits. Raises SpeechStreamError for code, and for what holds no tensors."""
    if not path.is_file():
        raise SpeechStreamError(f"{path.parent} lacks {path.name}")
    found = pickled.load(path)
    if not isinstance(found, dict):
        raise SpeechStreamError(f"{path} holds no tensors by their names")
    kept = {n: w for n, w in found.items() if isinstance(n, str) and isinstance(w, Tensor)}
    if not kept or any(w.is_complex() for w in kept.values()):
        raise SpeechStreamError(f"{path} holds no tensors by their names")
    return {n: w.float() if w.is_floating_point() else w for n, w in kept.items()}


def fitted(make: Callable[[], N], weights: Mapping[str, Tensor], where: Path) -> N:
    """A network with these weights; sizes are compared before any memory is taken."""
    with torch.device("meta"):
        like = make()
    try:
        names.check(like, weights)
    except SpeechStreamError as error:
        raise SpeechStreamError(f"{where}: {error}") from error
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise SpeechStreamError(f"{where}: its tensor {name} holds a number that is not finite")
    return names.load(make(), weights).requires_grad_(False)


def language_model(
    folder: Path, version: int, yaml: Section, tensors: Mapping[str, Tensor]
) -> tuple[LlmCheckpoint, SpeechLmConfig]:
    """The language model as one table of ids: text, speech, and the markers of CosyVoice 2."""
    llm = yaml.section("llm")
    speech_tokens = llm.integer("speech_token_size")
    groups = llm.integers("mix_ratio", (5, 15))
    if len(groups) != 2:
        raise ValueError(f"llm.mix_ratio must be two numbers; got {groups}")
    parts = [
        _there(tensors, f"{n}.weight") for n in ("llm.model.model.embed_tokens", "speech_embedding")
    ]
    text = len(parts[0])
    if version == 2:
        parts.append(_there(tensors, "llm_embedding.weight"))
    head = _there(tensors, "llm_decoder.weight")
    if any(p.ndim != 2 or p.shape[1] != parts[0].shape[1] for p in (*parts, head)):
        raise SpeechStreamError(f"{folder}: the tables of its language model differ in width")
    sizes = _json(folder / QWEN / "config.json")
    if not isinstance(sizes, dict):
        raise SpeechStreamError(f"{folder / QWEN / 'config.json'} is no JSON object")
    rows = sum(len(p) for p in parts)
    network = from_hugging_face({**sizes, "vocab_size": rows, "tie_word_embeddings": False})
    after = text + speech_tokens
    speech = SpeechLmConfig(
        network,
        outputs=len(head),
        speech=text,
        speech_tokens=speech_tokens,
        begin=text + len(parts[1]) if version == 2 else after,
        task=text + len(parts[1]) + 1 if version == 2 else after + 2,
        end=speech_tokens if version == 2 else speech_tokens + 1,
        fill=speech_tokens + (2 if version == 2 else 3),
        text_group=groups[0],
        speech_group=groups[1],
    )
    found = {
        n.removeprefix("llm.model."): w
        for n, w in tensors.items()
        if n.startswith("llm.model.model.")
    }
    found["model.embed_tokens.weight"] = torch.cat(parts)
    found["lm_head.weight"] = head
    if "llm_decoder.bias" in tensors:
        found["lm_head.bias"] = tensors["llm_decoder.bias"]
    wanted = {**shapes(network), "lm_head.weight": (len(head), network.dim)}
    if "lm_head.bias" in found:
        wanted["lm_head.bias"] = (len(head),)
    unread = {"llm.model.lm_head.weight", *_OWN}  # the first is Qwen's, for text
    for name in tensors:
        inside = name.removeprefix("llm.model.") if name.startswith("llm.model.model.") else None
        if name not in unread and inside not in wanted and not name.endswith("rotary_emb.inv_freq"):
            raise SpeechStreamError(f"{folder}: its language model has an unknown {name[:80]}")
    for name, shape in wanted.items():
        got = tuple(found[name].shape) if name in found else None
        if got != shape:
            has = "lacks" if got is None else f"has {list(got)} for"
            raise SpeechStreamError(
                f"{folder}: its language model {has} {name}, which is {list(shape)} by its configuration"
            )
        if not torch.isfinite(found[name]).all():
            raise SpeechStreamError(f"{folder}: its {name} holds a number that is not finite")
    return _checkpoint(network, found), speech


def _checkpoint(network: LlmConfig, tensors: dict[str, Tensor]) -> LlmCheckpoint:
    return LlmCheckpoint(
        network, frozenset(tensors), lambda name: tensors[name].numpy(), tokenizer=""
    )


def _voices(
    folder: Path,
    version: int,
    encoder: TokenEncoder,
    tokenizer: Tokenizer,
    spectrum: Callable[[], MelConfig],
    recordings: tuple[Recording, ...],
) -> dict[str, VoicePrompt]:
    """Those that were recorded for this bundle, then those of the checkpoint; one without a speaker where there are none."""
    found: dict[str, VoicePrompt] = {}
    reader = None
    for one in recordings:
        _named(one.name, found)
        if not one.text.strip():
            raise SpeechStreamError(f"{one.path}: a voice needs the text that its recording says")
        reader = reader or PromptReader(
            folder, SPEECH_TOKENIZERS[version], spectrum(), encoder.config.repeats
        )
        try:
            tokens, mel, vector = reader(*io.read(one.path))
        except ValueError as error:
            raise SpeechStreamError(f"{one.path}: {error}") from error
        text = one.text
        if version == 3 and "<|endofprompt|>" not in text:
            text = INSTRUCTION + text
        ids = np.array(tokenizer.encode(text), np.int64)
        found[one.name] = VoicePrompt(ids, tokens, mel, _speaker(encoder, vector, one.name))
    if (folder / "spk2info.pt").is_file():
        found |= _stored(folder / "spk2info.pt", encoder, found)
    if not found:
        nothing = np.zeros(0, np.int64)
        mels = encoder.config.n_mels
        empty = np.zeros((0, mels), np.float32)
        found[UNNAMED] = VoicePrompt(nothing, nothing, empty, np.zeros(mels, np.float32))
    return found


def _stored(
    path: Path, encoder: TokenEncoder, taken: Mapping[str, VoicePrompt]
) -> dict[str, VoicePrompt]:
    """The voices of a spk2info.pt: prompts, or (of instruct models) speakers' vectors alone."""
    stored, found = pickled.load(path), dict[str, VoicePrompt]()
    if not isinstance(stored, dict):
        raise SpeechStreamError(f"{path} holds no voices by their names")
    for name, info in stored.items():
        if not isinstance(name, str) or not isinstance(info, dict):
            raise SpeechStreamError(f"{path} holds no voices by their names")
        _named(name, {**taken, **found})

        def part(
            key: str, kind: Any, info: Mapping[str, Any] = info, name: str = name
        ) -> np.ndarray:
            value = info.get(key)
            if value is None:
                return np.zeros(0, kind)
            if not isinstance(value, Tensor) or value.is_complex():
                raise SpeechStreamError(f"{path}: the {key} of {name!r} is no tensor of numbers")
            if not torch.isfinite(value).all():
                raise SpeechStreamError(
                    f"{path}: the {key} of {name!r} holds a number that is not finite"
                )
            return np.asarray(value.double().numpy(), kind)

        vector = part("flow_embedding", np.float32)
        if not vector.size:
            vector = part("embedding", np.float32)
        mel = part("prompt_speech_feat", np.float32).reshape(-1, encoder.config.n_mels)
        tokens = part("flow_prompt_speech_token", np.int64).ravel()
        spoken = part("llm_prompt_speech_token", np.int64).ravel()
        if "llm_prompt_speech_token" in info and not np.array_equal(tokens, spoken):
            raise SpeechStreamError(
                f"{path}: {name!r} has one recording for its language model and another for its flow, which is not supported"
            )
        count = min(len(mel) // encoder.config.repeats, len(tokens))
        found[name] = VoicePrompt(
            part("prompt_text", np.int64).ravel(),
            tokens[:count],
            mel[: count * encoder.config.repeats],
            _speaker(encoder, vector.ravel(), name),
        )
    return found


def _speaker(encoder: TokenEncoder, vector: np.ndarray, name: str) -> np.ndarray:
    """A speaker's vector as the flow takes it."""
    size = encoder.config.speaker_dim
    if vector.shape != (size,):
        raise SpeechStreamError(
            f"the vector of the speaker {name!r} has {vector.size} numbers, and the flow takes {size}"
        )
    with torch.no_grad():
        return np.asarray(encoder.speakers(torch.from_numpy(vector.copy())[None])[0].numpy())


def _named(name: str, taken: Mapping[str, Any]) -> None:
    if not _NAME.fullmatch(name) or name in taken:
        raise SpeechStreamError(f"no voice can be named {name[:64]!r}, or two are")


def _there(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise SpeechStreamError(f"the checkpoint lacks {name}")
    return tensors[name]


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_JSON:
            raise SpeechStreamError(f"{path} is too long to be what its name says")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpeechStreamError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"{path} is damaged: it is not JSON") from error
