"""The speech LLM recipe's own pieces: when tokens are said, the compact vocabulary, the choice of weights for rescoring."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("tokenizers")
pytest.importorskip("soundfile")
pytest.importorskip("whisper_normalizer")

from recipes.common.args import read_config
from recipes.speech_llm import data, free, hidden, pack, rescore, start, train
from recipes.speech_llm.vocabulary import Compact, choose
from speechstream.lm.tokens import Tokenizer
from speechstream.runtime.requests import drive
from tools.make_tiny_speech_llm import tiny


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer as Made, decoders, models, pre_tokenizers, trainers

    made = Made(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=alphabet,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    made.train_from_iterator([" the rain in spain, the rain."] * 5, trainer)
    return Tokenizer(made.to_str())


@pytest.fixture()
def compact(tokenizer, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(choose(["The rain in Spain."] * 9, tokenizer)))
    return Compact(path, tokenizer)


def test_every_word_can_be_written_in_the_compact_vocabulary(compact):
    text = "the rain, of Quebec's in spain."
    words = compact.words(text)
    for word, ids in zip(text.split(), words):
        assert b"".join(compact.pieces[i] for i in ids).decode() == f" {word}"
        assert all(i > 0 for i in ids)
    assert compact.words("spain\u2019s") == compact.words("spains")  # what it cannot write
    assert compact.ids[0] == compact.tokenizer.id("<|endoftext|>")
    assert len(words[1]) < len(words[3])


def test_letters_are_said_where_their_word_ends_and_marks_come_behind(compact):
    row = {"text": "rain, in", "ends": [[1.0, 1.2], [2.0, 2.0]]}
    tokens, times = hidden.dated(row, compact)
    pieces = [compact.pieces[i] for i in tokens]
    mark = pieces.index(b",")
    assert mark > 0 and times[:mark] == [1.0] * mark
    assert times[mark:] == [1.2] + [2.0] * (len(tokens) - mark - 1)


def test_histories_with_errors_know_what_comes_next_and_when_the_last_was_said():
    tokens = list(range(100, 400))
    h = hidden.with_errors(tokens, [7], np.random.default_rng(0))
    assert len(h.next) == len(h.last) == len(h.tokens) + 1
    assert h.next == sorted(h.next) and h.next[-1] == len(tokens) and h.last == sorted(h.last)
    states = list(zip(h.tokens, h.next[1:], h.last[1:]))
    assert all(int(last) < upto for _, upto, last in states)
    assert np.mean([tokens[int(last)] == token for token, _, last in states if token != 7]) > 0.97
    right = sum(a == b for a, b in zip(h.tokens, tokens))
    assert h.tokens != tokens and right < len(tokens) and h.tokens.count(7) > 5
    kept = hidden.as_written(tokens)
    assert (kept.next[0], kept.last[0]) == (0, -1) and kept.last[1:] == kept.next[:-1]
    said = np.array([3, 8, 8])
    found = data.where(np.array([-1, 0, 0.5, 1, 2]), said, 20)
    assert found.tolist() == [-1, 3, 5, 8, 8]


def batch_of_one(model):
    """An utterance of 20 frames, its second history token one that nobody said."""
    said, tokens = np.array([3, 7, 8, 8, 15]), [4, 9, 9, 5, 2]
    spoken = np.full(20, -1)
    spoken[1:4] = 4
    width = model.hearing.trunk.into.in_features
    return data.Batch(
        torch.randn(1, 20, width),
        torch.tensor([20]),
        torch.randn(1, 7, model.config.text.dim),
        [tokens],
        [said],
        [np.array([0, 1, 1, 2, 3, 4, 5])],
        [np.array([-1, 3, 5, 7, 8, 8, 15])],
        [spoken],
    )


def test_cells_are_due_once_the_next_token_has_been_said():
    b = batch_of_one(tiny(0, sound_window=0))
    c = train.cells(b, np.random.default_rng(0))
    ends = np.append(b.said[0], 20)[b.next[0]]
    for t, u, since, due, token in zip(*(a.tolist() for a in (c.t, c.u, c.since, c.due, c.token))):
        assert due == (t >= ends[u]) and 0 <= t < 20 and since >= 0
        assert token == (b.tokens[0][b.next[0][u]] if due else -1)
        assert u == 0 or abs(t - since - min(b.last[0][u], t)) <= 1
    assert {u for u, due in zip(c.u.tolist(), c.due.tolist()) if due} == set(range(6))


def test_gate_and_tokens_are_learnt_where_the_cells_say():
    torch.manual_seed(0)
    model = tiny(0, sound_window=0)
    for part in (model.hearing.trunk, model.hearing.heads, model.joint):
        part.requires_grad_(True)
    off = {"dropout": 0.0, "smoothing": 0.0, "text_dropout": 0.0, "without_text": 0.0}
    config, batch = read_config(train.CONFIG) | off, batch_of_one(model)
    optimiser = torch.optim.Adam(train.trained(model).values(), lr=5e-3)
    for n in range(120):
        found = train.losses(model.train(), batch, config, np.random.default_rng(n))
        sum(w * found[n] for n, w in config["weights"].items() if w).backward()
        optimiser.step()
        optimiser.zero_grad()
    found = train.losses(model.eval(), batch, config, np.random.default_rng(1000))
    assert found["right"] == 1 and found["gate_right"] > 0.95
    assert {n for n in train.trained(model) if train.taken(n)} > {"joint.blocks.0.query.weight"}


@torch.inference_mode()
def test_texts_that_grow_at_their_own_pace_are_read_as_each_alone():
    model = tiny(1)
    texts = free.Texts(model.reader, 2)
    for token in ([0, 0], [5, free.NOTHING], [7, 3], [free.NOTHING, 4]):
        last = texts(torch.tensor(token))
    for b, whole in ((0, [0, 5, 7]), (1, [0, 3, 4])):
        alone = free.Texts(model.reader, 1)
        for token in whole:
            expected = alone(torch.tensor([token]))
        if b == 1:
            torch.testing.assert_close(last[1], expected[0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_what_is_written_while_training_is_what_the_recogniser_writes():
    model = tiny(2, sound_window=0)
    model.joint.gate[-1].bias.fill_(50.0)  # in every frame as much as there may be
    width, vocab = model.hearing.trunk.into.in_features, model.config.text.vocab_size
    begins = [True] * 9 + [False] * (vocab - 9)
    (w,) = free.write(model, model.reader, [torch.randn(3, width)], begins)
    assert w.at == sorted(w.at) and set(w.at) == {0, 1, 2}
    assert max(np.bincount(w.at)) <= free.MOST
    first = [n for n, at in enumerate(w.at) if n == 0 or w.at[n - 1] != at]
    assert all(w.tokens[n] >= 9 for n in range(len(w.tokens)) if n not in first)


def test_what_is_still_being_written_is_taken_as_far_as_it_is_whole(tmp_path):
    index = tmp_path / "train.jsonl"
    index.write_text('{"audio": "a"}\n{"audio": "b"}\n{"audio":')
    assert [r["audio"] for r in data.written(index)] == ["a", "b"]


def test_rescoring_takes_the_weights_that_help_and_knows_the_best_pick(tmp_path):
    def row(name, text, *segments):
        about = {"audio": name, "text": text, "source": "librispeech", "segments": segments}
        return about | {"lm_tokens": 9, "heard_s": 1.0, "lm_s": 0.1}

    sat = [["the cat sad", -1.0, -9.0, -9.0], ["the cat sat", -1.5, -5.0, -5.0]]
    dog = [["a dog", -0.1, -4.0, -4.0], ["a dock", -2.0, -6.0, -6.0]]
    rows = [row("a", "the cat sat a dog", sat, dog), row("b", "a dog", dog), row("c", "nothing")]
    path = tmp_path / "n.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    counted = rescore.Counted(path)
    assert counted.chosen(0, 0, 0) == ["the cat sad a dog", "a dog", ""]
    assert counted.chosen(0.3, 0, 0) == ["the cat sat a dog", "a dog", ""]
    assert counted.chosen(0.3, 0.3, 0) == counted.chosen(0, 0, 0)
    assert counted.best_pick() == counted.chosen(0.3, 0, 0)
    assert counted.wer(counted.chosen(0, 0, 0)) == {"LibriSpeech": 25.0, "all": 25.0}
    assert counted.wer(counted.best_pick())["all"] == 12.5


def test_a_run_becomes_a_bundle_that_runs(tokenizer, compact, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("onnx")
    from speechstream import Recognizer, bundle
    from speechstream.nn.whisper import Whisper, WhisperConfig

    torch.manual_seed(0)
    heard = Whisper(
        WhisperConfig(
            n_mels=80,
            dim=32,
            heads=2,
            encoder_layers=1,
            decoder_layers=1,
            vocab_size=256,
            positions=150,
            left_context=40,
            ctc_vocab_size=bundle.load(train.BUNDLE).config["ctc_vocab_size"],
            ctc_dim=16,
            ctc_blocks=1,
        )
    )
    monkeypatch.setattr(start, "read_whisper", lambda b: heard)
    letters = SimpleNamespace(pieces=[bytes([i]) for i in range(256)])
    monkeypatch.setattr(start, "Vocabulary", lambda path: letters)
    config = transformers.LlamaConfig(
        vocab_size=330,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    llm = transformers.LlamaForCausalLM(config).eval()
    llm.save_pretrained(tmp_path / "llm")
    (tmp_path / "llm" / "tokenizer.json").write_text(tokenizer._read.to_str())
    sizes = {"trunk_dim": 24, "trunk_blocks": 1, "look": 16, "look_blocks": 1, "sound_window": 8}
    about = tmp_path / "config.yaml"
    about.write_text(yaml.safe_dump(read_config(train.CONFIG) | {"sizes": sizes}))
    model = start.begin(train.BUNDLE, tmp_path / "llm", compact, sizes)
    table = llm.model.embed_tokens.weight.detach()
    assert torch.equal(model.reader.model.embed_tokens.weight, table[compact.ids])
    assert set(train.trained(model)) == {
        n
        for n in model.state_dict()
        if n.split(".")[0] == "joint" or n.split(".")[1] in ("trunk", "heads")
    }
    block, theirs = model.joint.blocks[0], heard.decoder.blocks[0]
    assert torch.equal(block.query.weight, theirs.cross_attn.query.weight)
    assert torch.equal(model.hearing.memory.values[0].bias, theirs.cross_attn.value.bias)
    longest = max(compact.pieces[1:], key=len)
    spelt, ours = list(longest), model.joint.out.weight[compact.pieces.index(longest)]
    torch.testing.assert_close(ours, heard.decoder.token_embedding.weight[spelt].mean(0))
    optimiser = torch.optim.AdamW(train.trained(model).values())
    train.save(model, optimiser, tmp_path / "run", 3, 0.5)
    vocabulary = tmp_path / "vocabulary.json"
    pack.main(
        [str(tmp_path / "run"), "--vocabulary", str(vocabulary), "--llm", str(tmp_path / "llm")]
        + ["--config", str(about), "--out", str(tmp_path / "bundle"), "--weights", "fp32"]
    )
    x = np.random.default_rng(0).standard_normal(16000).astype(np.float32) / 10
    engines = ("onnx", "torch")
    one, two = (Recognizer.load(tmp_path / "bundle", engine=e, drafts=True).family for e in engines)
    mode = one.mode(640)
    said = [drive(f.finish(f.open(mode), mode, x)) for f in (one, two)]
    assert said[0].tokens == said[1].tokens
    np.testing.assert_allclose(said[0].said, said[1].said, atol=1e-4)
