"""Load pocket-tts checkpoints: the folder that transformers 5.24 writes and reads.

    FOLDER/config.json, *.safetensors           language model and flow head (model_type "pocket_tts")
    FOLDER/tokenizer.json                       and generation_config.json, processor_config.json where they are
    FOLDER/voices/NAME.safetensors              voices: latents (frames, latent_dim)
    FOLDER/voices/NAME.wav                      or recordings, which the codec's encoder makes latents of
    FOLDER/audio_tokenizer/config.json, ...     the codec (model_type "pocket_tts_audio_tokenizer"); the name is free

Nothing in a checkpoint is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import torch
from torch import Tensor, nn

from speechstream.audio import io
from speechstream.audio.resample import Resampler
from speechstream.convert.mimi import Reader, seanet_names, transformers_layer
from speechstream.convert.pocket_config import CODEC, MODEL, model_config, sampling
from speechstream.convert.qwen import fitting
from speechstream.errors import SpeechStreamError
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.pocket import Pocket, TimeEmbedding
from speechstream.nn.pocket_codec import LatentDecoder, LatentEncoder, seanet_config
from speechstream.nn.pocket_config import PocketCodecConfig, PocketConfig, PocketSampling
from speechstream.nn.seanet import DownConv1d, UpConv1d

MOST_JSON = 64 << 20  # bytes of a JSON file
MOST_VOICE_S = 60.0  # seconds of a voice's recording
RECORDINGS = (".wav", ".flac", ".ogg", ".mp3")
TRAINING = re.compile(r"loss_weighting\.|latent_stats_num_updates$")  # weights of training alone
PAUSE_S, FADE_S, WINDOW_S, FLOOR_DB = 0.08, 0.02, 0.02, 35.0  # see `end_on_pause`
_NAME = re.compile(r"[\w][\w .-]{0,63}")
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class PocketCheckpoint:
    """A pocket-tts as it was found. voices: latents (frames, latent_dim) of each, by name. tokenizer: the text of a
    tokenizer.json. encoder: None where the codec comes without one."""

    config: PocketConfig
    sampling: PocketSampling
    model: Pocket
    decoder: LatentDecoder
    encoder: LatentEncoder | None
    voices: dict[str, Tensor]
    tokenizer: str
    name: str = "pocket-tts"


def is_pocket(path: str | Path) -> bool:
    """Whether a folder looks like a pocket-tts (whether it is one, `load_pocket` says)."""
    return _kind(Path(path)) == MODEL


def load_pocket(path: str | Path) -> PocketCheckpoint:
    """Read a checkpoint. Raises SpeechStreamError, in one sentence, for what is no usable pocket-tts."""
    folder = Path(path)
    codec = _codec_folder(folder)
    config = model_config(_json(folder / "config.json"), _json(codec / "config.json"))
    generation, processor = (
        _json(folder / n) if (folder / n).is_file() else {}
        for n in ("generation_config.json", "processor_config.json")
    )
    if not (folder / "tokenizer.json").is_file():
        raise SpeechStreamError(f"{folder} has no tokenizer.json, without which it reads no text")
    tokenizer = json.dumps(_json(folder / "tokenizer.json"), ensure_ascii=False)
    try:
        fitting(Tokenizer(tokenizer), config.backbone.vocab_size)
    except ValueError as error:
        raise SpeechStreamError(f"{folder}: {error}") from error
    model = load_model(_weights(folder), config, folder)
    decoder, encoder = load_codec(_weights(codec), config, codec)
    voices = _voices(folder / "voices", config, encoder)
    return PocketCheckpoint(
        config,
        sampling(generation, processor),
        model,
        decoder,
        encoder,
        voices,
        tokenizer,
        folder.resolve().name,
    )


def load_model(weights: Mapping[str, Tensor], config: PocketConfig, where: Any) -> Pocket:
    """The language model and flow head from transformers' weights. Raises SpeechStreamError for what does not fit."""
    found = {
        n.removeprefix("model."): w.float() for n, w in weights.items() if not TRAINING.match(n)
    }
    return _fitted(lambda: Pocket(config), found, where)


def load_codec(
    weights: Mapping[str, Tensor], config: PocketConfig, where: Any
) -> tuple[LatentDecoder, LatentEncoder | None]:
    """Both directions of the codec; None for an encoder that is not there. Raises SpeechStreamError."""
    c, read = config.codec, Reader(weights, "pocket-tts codec")
    down = {"latent_proj.weight": read("latent_proj.weight").flatten(1)}
    up = read("decoder.upsample.conv.weight")  # (dim, 1, 2 stride)
    if up.shape != (c.dim, 1, 2 * c.stride):
        raise SpeechStreamError(f"{where}: its upsampling has the shape {tuple(up.shape)}")
    down["upsample"] = up.squeeze(1).T.reshape(2, c.stride, -1).contiguous()
    down |= _side(read, c, "decoder")
    decoder = _fitted(lambda: LatentDecoder(c, config.latent_dim), down, where)
    encoder = None
    if any(n.startswith("encoder.") for n in weights):
        found = _side(read, c, "encoder")
        found["downsample.weight"] = DownConv1d.pack_weight(read("encoder.downsample.conv.weight"))
        encoder = _fitted(lambda: LatentEncoder(c, config.latent_dim), found, where)
    left = sorted(set(weights) - read.read)
    if left:
        raise SpeechStreamError(f"{where} has the tensor {left[0]!r}, which no part of it takes")
    return decoder, encoder


def end_on_pause(pcm: np.ndarray, rate: int) -> np.ndarray:
    """A voice's recording (n,) cut behind its last loud window, faded out, with a short pause.

    A prompt that stops within speech makes the model continue it, and one that ends on a long silence delays what is
    said: this is how the model's makers prepare one.
    """
    size = max(1, int(WINDOW_S * rate))
    count = len(pcm) // size
    if not count:
        return pcm
    power = np.sqrt(np.square(pcm[: count * size].reshape(count, size)).mean(-1))
    level = 20 * np.log10(power + 1e-12)
    end = (int(np.flatnonzero(level > level.max() - FLOOR_DB)[-1]) + 1) * size
    out = pcm[:end].copy()
    fade = min(int(FADE_S * rate), end)
    out[end - fade :] *= np.linspace(1, 0, fade, dtype=out.dtype)
    return np.concatenate([out, np.zeros(int(PAUSE_S * rate), out.dtype)])


def voice_latents(pcm: np.ndarray, rate: int, encoder: LatentEncoder) -> Tensor:
    """A recording (n,) at `rate` as a voice (frames, latent_dim). Raises ValueError where it is too long or empty."""
    if not 0 < len(pcm) <= MOST_VOICE_S * rate:
        raise ValueError(
            f"a voice's recording lasts up to {MOST_VOICE_S:.0f} s; got {len(pcm) / rate:.1f} s"
        )
    own = encoder.config.sample_rate
    if rate != own:
        resampler = Resampler(rate, own)
        pcm = resampler(pcm)
    pcm = end_on_pause(pcm.astype(np.float32), own)
    with torch.no_grad():
        return encoder(torch.from_numpy(pcm)[None, None])[0]


def _kind(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        return None
    try:
        found = _json(folder / "config.json")
    except SpeechStreamError:
        return None
    return found.get("model_type") if isinstance(found, dict) else None


def _codec_folder(folder: Path) -> Path:
    """The codec's: inside the model's folder, or beside it under the name that the processor gives."""
    inside = [p for p in sorted(folder.iterdir()) if p.is_dir() and _kind(p) == CODEC]
    if len(inside) > 1:
        raise SpeechStreamError(
            f"{folder} has several codecs: {', '.join(p.name for p in inside)[:200]}"
        )
    if inside:
        return inside[0]
    said = (
        _json(folder / "processor_config.json")
        if (folder / "processor_config.json").is_file()
        else {}
    )
    about = said.get("audio_tokenizer") if isinstance(said, dict) else None
    name = about.get("audio_tokenizer_name_or_path") if isinstance(about, dict) else None
    if (
        isinstance(name, str)
        and (last := Path(name).name)
        and _kind(folder.resolve().parent / last) == CODEC
    ):
        return folder.resolve().parent / last
    raise SpeechStreamError(
        f"{folder} has no folder with its codec; put {str(name or 'the audio tokenizer')[:80]} into "
        f"{folder / 'audio_tokenizer'}"
    )


def _side(read: Reader, c: PocketCodecConfig, side: str) -> dict[str, Tensor]:
    """SEANet and transformer of one direction."""
    found = {}
    for ours, position in seanet_names(seanet_config(c), side):
        name = f"{side}.{side}_seanet.layers.{position}.conv"
        weight = read(f"{name}.weight")
        if ours.endswith("resample"):
            weight = (UpConv1d if side == "decoder" else DownConv1d).pack_weight(weight)
        found[f"seanet.{ours}.weight"] = weight
        found[f"seanet.{ours}.bias"] = read(f"{name}.bias")
    for i in range(c.layers):
        prefix = f"{side}.{side}_transformer.layers.{i}."
        for ours, value in transformers_layer(read, prefix, c.heads):
            found[f"transformer.layers.{i}.{ours}"] = value
    return found


def _fitted(make: Callable[[], N], weights: dict[str, Tensor], where: Any) -> N:
    """A network with these weights; sizes are compared before any memory is taken."""
    with torch.device("meta"):
        network = make()
    expected = network.state_dict()
    for name, module in network.named_modules():
        if isinstance(module, TimeEmbedding):  # which not every checkpoint stores
            weights.setdefault(f"{name}.freqs", module.frequencies(module.config))
    for name, like in expected.items():
        if name not in weights:
            raise SpeechStreamError(f"{where} lacks the tensor {name!r}")
        if weights[name].shape != like.shape:
            raise SpeechStreamError(
                f"{where}: its tensor {name!r} has the shape {tuple(weights[name].shape)}, and its config says "
                f"{tuple(like.shape)}"
            )
        if not torch.isfinite(weights[name]).all():
            raise SpeechStreamError(
                f"{where}: its tensor {name!r} holds a number that is not finite"
            )
    left = sorted(set(weights) - set(expected))
    if left:
        raise SpeechStreamError(f"{where} has the tensor {left[0]!r}, which no part of it takes")
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval()


def _weights(folder: Path) -> dict[str, Tensor]:
    parts = sorted(folder.glob("*.safetensors"))
    if not parts:
        raise SpeechStreamError(f"{folder} has no *.safetensors; other weights are not read")
    return {n: t for p in parts for n, t in _tensors(p).items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise SpeechStreamError(f"{path} is damaged: {str(error)[:200]}") from error


def _voices(folder: Path, config: PocketConfig, encoder: LatentEncoder | None) -> dict[str, Tensor]:
    found = {}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in files:
        if path.suffix == ".safetensors":
            latents = _latents(path, config.latent_dim)
        elif path.suffix.lower() in RECORDINGS:
            if encoder is None:
                raise SpeechStreamError(
                    f"{path}: this codec has no encoder, so it takes no voice from it"
                )
            try:
                latents = voice_latents(*io.read(path), encoder)
            except ValueError as error:
                raise SpeechStreamError(f"{path}: {error}") from error
        else:
            continue
        if not _NAME.fullmatch(path.stem) or path.stem in found:
            raise SpeechStreamError(f"{path}: no voice can be named {path.stem[:64]!r}, or two are")
        found[path.stem] = latents
    return found


def _latents(path: Path, latent_dim: int) -> Tensor:
    tensors = _tensors(path)
    values = list(tensors.values())
    one = values[0] if len(values) == 1 else torch.zeros(0)
    one = one[0] if one.ndim == 3 and len(one) == 1 else one
    seconds = one.shape[0] / 12.5 if one.ndim == 2 else 0.0
    if (
        one.ndim != 2
        or one.shape[1] != latent_dim
        or not one.is_floating_point()
        or not 0 < seconds <= 2 * MOST_VOICE_S
    ):
        raise SpeechStreamError(
            f"{path} is no voice: expected one tensor of latents (frames, {latent_dim}); got "
            + (
                ", ".join(f"{n[:40]} {tuple(t.shape)}" for n, t in list(tensors.items())[:2])
                or "none"
            )
        )
    if not torch.isfinite(one).all():
        raise SpeechStreamError(f"{path} holds a number that is not finite")
    return one.float()


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_JSON:
            raise SpeechStreamError(f"{path} is too long to be what its name says")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpeechStreamError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"{path} is damaged: it is not JSON") from error
