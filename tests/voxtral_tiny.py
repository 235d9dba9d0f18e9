"""Voxtral Realtimes of transformers with random weights, so small that tests are fast, and what they make of sounds.

`transformers` is the oracle: `theirs` makes a model, `write_checkpoint` saves it as the released ones are, with a small
tekken.json of our own.
"""

import base64
import json

import numpy as np
import torch
import transformers

SPECIAL = 24
SPECIALS = (  # 24; mistral-common asks for most of them
    "<unk> <s> </s> [INST] [STREAMING_PAD] [STREAMING_WORD] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] "
    "[TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT] [ARGS] "
    "[CALL_ID] [THINK] [/THINK] [AUDIO] [BEGIN_AUDIO] [PREFIX] [MIDDLE] [SUFFIX]"
).split()
WORDS = [
    " the",
    " cat",
    " sat",
    "ing",
    " on",
    " mat",
    "es",
    " \u00e9t\u00e9",
    " \u4e16\u754c",
    " Dr",
    "...",
    ", ",
]
BYTES = [bytes([i]) for i in range(256)]
PIECES = [*BYTES, *(w.encode() for w in WORDS)]
VOCAB = SPECIAL + len(PIECES)
BOS, EOS, PAD, WORD = 1, 2, 4, 5
LEFT_PAD = 5  # tokens of silence; 32 as released

SIZES = {  # names of configurations: other sizes, head counts, windows, tied or not
    "plain": {},
    "untied": {
        "tied": False,
        "text": {"num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 3},
        "audio": {"hidden_size": 40, "num_attention_heads": 5, "num_mel_bins": 32},
    },
    "narrow": {
        "text": {"sliding_window": 11, "num_key_value_heads": 1, "hidden_size": 44},
        "audio": {"sliding_window": 7, "head_dim": 12, "num_hidden_layers": 3},
    },
    "endless": {"text": {"sliding_window": None, "num_key_value_heads": 4}},
}


def theirs(name="plain", seed=0):
    """A model of transformers in evaluation mode, its weights so large that its tokens differ."""
    given = SIZES[name]
    torch.manual_seed(seed)
    text = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 40,
    } | given.get("text", {})
    audio = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "head_dim": 8,
        "num_mel_bins": 16,
        "sliding_window": 30,
    } | given.get("audio", {})
    config = transformers.VoxtralRealtimeConfig(
        text_config=text, audio_config=audio, tie_word_embeddings=given.get("tied", True)
    )
    model = transformers.VoxtralRealtimeForConditionalGeneration(config).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "norm.weight" in key or key.endswith("layernorm.weight"):
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif "embed_tokens" in key or "lm_head" in key:
                p.copy_(0.7 * torch.randn_like(p))
            elif "ada_rms_norm" in key:
                p.copy_(0.3 * torch.randn_like(p))
            elif "o_proj.weight" in key or "down_proj.weight" in key:
                p.copy_(torch.randn_like(p) * 4 / np.sqrt(p[0].numel()))  # no layer is passed over
            else:
                p.copy_(torch.randn_like(p) * 1.2 / np.sqrt(max(p[0].numel(), 4)))
        model.tie_weights()
        # of random layers most of the output is the same everywhere: what is left makes the tokens differ
        mel = features(model, padded(sound(1.0), 6))
        ids = torch.randint(SPECIAL, VOCAB, (1, mel.shape[2] // 8))
        hidden = model.model(input_ids=ids, input_features=mel, num_delay_tokens=6, use_cache=False)
        mean = hidden.last_hidden_state[0].mean(0)
        head = model.lm_head.weight
        head.sub_(torch.outer(head @ mean, mean) / mean.dot(mean))
    return model.requires_grad_(False)


def tekken():
    """A tekken.json of bytes, a few words and the special tokens."""
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(b).decode(), "token_str": None}
        for i, b in enumerate(PIECES)
    ]
    special = [
        {"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(SPECIALS)
    ]
    audio = {
        "sampling_rate": 16000,
        "frame_rate": 12.5,
        "audio_encoding_config": {"num_mel_bins": 16, "hop_length": 160, "window_size": 400},
        "transcription_delay_ms": 480,
        "transcription_format": "streaming",
        "streaming_look_ahead_ms": 2.5,
        "streaming_look_back_ms": 52.5,
        "streaming_n_left_pad_tokens": LEFT_PAD,
    }
    config = {
        "pattern": r"\s?\p{L}+|\s|.",
        "num_vocab_tokens": len(PIECES),
        "default_vocab_size": VOCAB,
        "default_num_special_tokens": SPECIAL,
        "version": "v13",
    }
    return {"config": config, "vocab": vocab, "special_tokens": special, "audio": audio}


def write_checkpoint(model, folder, dtype=None):
    """The model as transformers saves it, with what its processor would read."""
    (model if dtype is None else model.to(dtype)).save_pretrained(folder)
    data = tekken()
    mels = model.config.audio_config.num_mel_bins
    data["audio"]["audio_encoding_config"]["num_mel_bins"] = mels
    (folder / "tekken.json").write_text(json.dumps(data))
    features = transformers.VoxtralRealtimeFeatureExtractor(feature_size=mels)
    features.save_pretrained(folder)
    return folder


def padded(x, delay):
    """Samples with the silence before and after them that the processor puts there."""
    after = -len(x) % 1280 + 1280 * (delay + 1 + 10)
    return np.concatenate([np.zeros(1280 * LEFT_PAD, np.float32), x, np.zeros(after, np.float32)])


def features(model, x):
    """Mel frames (1, mels, frames) of padded samples, by transformers."""
    extractor = transformers.VoxtralRealtimeFeatureExtractor(
        feature_size=model.config.audio_config.num_mel_bins
    )
    return extractor(x, sampling_rate=16000, return_tensors="pt").input_features


def prompt(delay):
    return [BOS] + [PAD] * (LEFT_PAD + delay)


@torch.no_grad()
def generate(model, mel, delay, eos=EOS):
    """The greedy tokens after the prompt, by transformers."""
    ids = torch.tensor([prompt(delay)])
    out = model.generate(
        input_ids=ids,
        input_features=mel,
        num_delay_tokens=delay,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
    )
    return out[0, ids.shape[1] :].tolist()


def sound(seconds, seed=0):
    """Noise whose loudness and colour change, so that tokens do."""
    rng = np.random.default_rng(seed)
    n = int(16000 * seconds)
    x = rng.standard_normal(n)
    t = np.arange(n) / 16000
    x = x * np.abs(np.sin(2 * np.pi * 1.3 * t + seed)) + np.sin(2 * np.pi * (200 + 900 * t) * t)
    return (0.1 * x).astype(np.float32)
