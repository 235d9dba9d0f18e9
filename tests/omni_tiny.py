"""Tiny Qwen2.5-Omni models of transformers, the oracle, and bundles of them. Heavy parts are made once a process."""

import dataclasses
import functools
import json

import torch

from speechstream.convert.omni import convert_omni
from tools.make_tiny_omni import CODES, tiny, write

SIZES = {  # other sizes, heads, blocks of an odd number of frames, windows
    "plain": {},
    "odd": {
        "audio": {"n_window": 7, "d_model": 20, "encoder_attention_heads": 5, "num_mel_bins": 11},
        "text": {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 1},
        "talker": {
            "hidden_size": 36,
            "num_attention_heads": 2,
            "head_dim": 10,
            "num_hidden_layers": 3,
        },
        "dit": {
            "block_size": 4,
            "look_ahead_layers": [0],
            "look_backward_layers": [2],
            "repeats": 3,
        },
        "seed": 1,
    },
    "windowed": {
        "text": {
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 13,
            "max_window_layers": 1,
            "num_key_value_heads": 4,
        },
        "talker": {"num_key_value_heads": 3, "rms_norm_eps": 1e-5},
        "seed": 4,
    },
}


@functools.cache
def theirs(name="plain"):
    """A model of transformers in evaluation mode."""
    return tiny(**SIZES[name])


def made(folder, name="plain", steps=1):
    """The bundle of one, whose decoder solves in fewer steps, which tests need not wait for."""
    write(folder / "checkpoint", theirs(name))
    bundle = folder / "bundle"
    convert_omni(folder / "checkpoint", bundle, {"name": "tiny", "licence": "none"})
    index = json.loads((bundle / "bundle.json").read_text("utf-8"))
    index["config"]["network"]["flow"] |= {"steps": steps, "solver": "euler"}
    (bundle / "bundle.json").write_text(json.dumps(index), "utf-8")
    return bundle


def generated(model, ids, mel, tokens, codes, padded=True):
    """Greedy text and codes of transformers' `generate` for one prompt (ids) with one recording (n_mels, frames).

    padded: a token of padding stands before the prompt. Without one it drops the mask, and then the marks that begin
    speech.
    """
    found = {}
    generate = model.talker.generate

    def kept(**kwargs):
        result = generate(**kwargs)
        found["codes"] = result[0, kwargs["input_ids"].shape[1] :].tolist()
        return result

    pad = int(padded)
    ids = torch.tensor([[0] * pad + list(ids)])
    mask = torch.ones_like(ids)
    mask[:, :pad] = 0
    thinker = model.thinker.config
    stop = [371, 369]
    model.talker.generate = kept
    try:
        result = model.generate(
            input_ids=ids,
            attention_mask=mask,
            input_features=mel[None],
            feature_attention_mask=torch.ones(1, mel.shape[1], dtype=torch.long),
            speaker="Ada",
            thinker_max_new_tokens=tokens,
            thinker_do_sample=False,
            thinker_eos_token_id=stop,
            talker_do_sample=False,
            talker_max_new_tokens=codes,
            talker_eos_token_id=[CODES, CODES + 2],
            token2wav_num_steps=2,
        )
    finally:
        model.talker.generate = generate
    assert thinker.audio_token_index in ids
    return result[0][0, ids.shape[1] :].tolist(), found["codes"]


def with_sampling(about, **changes):
    """A bundle's settings with another way of drawing codes."""
    return dataclasses.replace(about, sampling=dataclasses.replace(about.sampling, **changes))
