"""The language model's network against transformers, on random small models of each family."""

import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle")

from speechstream.convert.llm_config import from_hugging_face
from speechstream.errors import SpeechStreamError
from speechstream.nn.llm import Llm
from speechstream.nn.llm_config import LlmConfig, RopeConfig, from_dict, to_dict

SMALL = dict(
    vocab_size=120,
    hidden_size=48,
    intermediate_size=72,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
CASES = {
    "llama": ("llama", {}),
    "llama, one head of keys, tied": (
        "llama",
        dict(num_key_value_heads=1, tie_word_embeddings=True, rope_theta=100_000.0),
    ),
    "llama, biases, wide heads": (
        "llama",
        dict(attention_bias=True, mlp_bias=True, head_dim=16, num_key_value_heads=6),
    ),
    "llama, linear": (
        "llama",
        dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=10_000.0)),
    ),
    "llama, dynamic": (
        "llama",
        dict(rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=10_000.0)),
    ),
    "llama 3": (
        "llama",
        dict(
            rope_parameters=dict(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=24,
                rope_theta=500.0,
            )
        ),
    ),
    "llama, yarn": (
        "llama",
        dict(
            head_dim=16,
            rope_parameters=dict(
                rope_type="yarn",
                factor=4.0,
                original_max_position_embeddings=16,
                rope_theta=10_000.0,
            ),
        ),
    ),
    "mistral, window": ("mistral", dict(sliding_window=7, head_dim=12)),
    "mistral, no window": ("mistral", dict(sliding_window=None)),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True, num_attention_heads=4)),
    "qwen2, windows above": (
        "qwen2",
        dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
    ),
    "qwen3": ("qwen3", dict(head_dim=20, num_key_value_heads=3, tie_word_embeddings=True)),
}


def oracle(kind: str, changes: dict):
    torch.manual_seed(sum(map(ord, kind)) + len(changes))
    config = transformers.AutoConfig.for_model(kind, **{**SMALL, **changes})
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for name, p in theirs.named_parameters():  # what begins as ones or zeros shall be seen too
        if p.ndim == 1:
            torch.nn.init.normal_(p, 1.0 if "norm" in name else 0.0, 0.2)
        else:
            torch.nn.init.normal_(p, 0.0, 0.15)
    return theirs.float().eval()


def ours_of(theirs) -> Llm:
    model = Llm(from_hugging_face(theirs.config.to_dict()))
    model.load_state_dict(theirs.state_dict())
    return model.eval()


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def pair(request):
    theirs = oracle(*request.param)
    return theirs, ours_of(theirs)


@torch.no_grad()
def test_logits_are_those_of_transformers(pair):
    theirs, ours = pair
    tokens = torch.randint(0, 120, (3, 40), generator=torch.Generator().manual_seed(1))
    expected = theirs(tokens).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(ours(tokens), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_greedy_tokens_are_those_of_transformers(pair):
    theirs, ours = pair
    prompt = torch.randint(0, 120, (2, 9), generator=torch.Generator().manual_seed(2))
    expected = theirs.generate(
        prompt, max_new_tokens=24, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    logits, state = ours.step(prompt, ours.init_state(2))
    got = [prompt]
    for _ in range(24):
        got.append(logits[:, -1:].argmax(-1))
        logits, state = ours.step(got[-1], state)
    assert torch.cat(got, 1).tolist() == expected.tolist()


@torch.no_grad()
def test_any_steps_are_the_offline_call(pair):
    _, ours = pair
    tokens = torch.randint(0, 120, (2, 30), generator=torch.Generator().manual_seed(3))
    state, pieces = ours.init_state(2), []
    for part in tokens.split([1, 7, 1, 1, 12, 8], 1):
        out, state = ours.step(part, state)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 1), ours(tokens), atol=1e-5, rtol=0)


def test_a_config_survives_json():
    config = LlmConfig(
        rope=RopeConfig(kind="yarn", original_context=64), window=4, window_layers=(1, 2)
    )
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt_neox"}, "type 'gpt_neox'"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"vocab_size": 10**9}, "vocab_size must be"),
        ({"num_hidden_layers": 10**7}, "layers must be"),
        ({"hidden_size": "48"}, "hidden_size is '48'"),
        ({"num_key_value_heads": 4}, "multiple of kv_heads"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "'longrope' is not supported"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_theta": float("nan")}, "rope_theta is"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"partial_rotary_factor": 0.5}, "in part"),
    ],
)
def test_other_models_are_refused_in_a_sentence(change, words):
    values = {"model_type": "llama", **SMALL, **change}
    with pytest.raises(SpeechStreamError, match=words) as error:
        from_hugging_face(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change", [{"width": 3}, {"dim": "576"}, {"dim": 1 << 40}, {"rope": {"base": 0.5}}, {"tied": 1}]
)
def test_a_bundles_config_is_read_strictly(change):
    with pytest.raises(ValueError):
        from_dict({**to_dict(LlmConfig()), **change})
