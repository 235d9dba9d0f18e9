"""The speech LLM recipe's own pieces: when tokens are said, the compact vocabulary, the choice of weights for rescoring."""

import json

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("tokenizers")
pytest.importorskip("soundfile")
pytest.importorskip("whisper_normalizer")

from recipes.common.args import read_config
from recipes.speech_llm import data, hidden, pack, rescore, start, train
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
    assert compact.ids[0] == compact.tokenizer.id("<|endoftext|>")
    assert len(words[1]) < len(words[3])


def test_letters_share_the_time_of_their_word_and_marks_come_behind(compact):
    row = {"text": "rain, in", "ends": [[1.0, 1.2], [2.0, 2.0]]}
    tokens, times = hidden.dated(row, compact)
    pieces = [compact.pieces[i] for i in tokens]
    mark = pieces.index(b",")
    assert times[mark - 1] == pytest.approx(1.0) and times[mark] == pytest.approx(1.2)
    assert times[-1] == pytest.approx(2.0) and times == sorted(times)
    assert times[0] >= 1.0 - hidden.LETTER_S * len("rain,")


def test_gate_and_tokens_are_learnt_where_the_cells_say(tmp_path):
    torch.manual_seed(0)
    model = tiny(0, sound_window=0)
    for part in (model.hearing.trunk, model.hearing.heads, model.joint):
        part.requires_grad_(True)
    config = read_config(train.CONFIG) | {"dropout": 0.0, "smoothing": 0.0}
    said, tokens = np.array([3, 7, 8, 15]), [4, 9, 9, 2]
    spoken = np.full(20, -1)
    spoken[1:4] = 4
    width = model.hearing.trunk.into.in_features
    batch = data.Batch(
        torch.randn(1, 20, width),
        torch.tensor([20]),
        torch.randn(1, 5, model.config.text.dim),
        [tokens],
        [said],
        [spoken],
    )
    optimiser = torch.optim.Adam(train.trained(model).values(), lr=1e-2)
    for _ in range(60):
        found = train.losses(model.train(), batch, config, np.random.default_rng(0))
        sum(config["weights"][n] * found[n] for n in config["weights"]).backward()
        optimiser.step()
        optimiser.zero_grad()
    found = train.losses(model.eval(), batch, config, np.random.default_rng(1))
    assert found["right"] == 1 and found["gate_right"] > 0.95
    with torch.inference_mode():  # and so greedy search says each token where it was said
        audio, _, quiet = model.hearing.heads(model.hearing.trunk(batch.x))
        text = model.joint.text(batch.hidden)[0]
        u = 0
        for t in range(20):
            while u < len(tokens) and model.joint(audio[0, t], text[u])[0] > 0:
                assert abs(t - said[u]) <= 1
                u += 1
        assert u == len(tokens)
        assert (quiet[0, 1:4] < 0).all() and (quiet[0, 8:] > 0).all()


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
    from speechstream import Recognizer
    from speechstream.nn.whisper import Whisper, WhisperConfig

    torch.manual_seed(0)
    heard = Whisper(
        WhisperConfig(
            n_mels=80,
            dim=32,
            heads=2,
            encoder_layers=1,
            decoder_layers=1,
            vocab_size=9,
            positions=150,
            left_context=40,
            ctc_vocab_size=5,
            ctc_dim=16,
            ctc_blocks=1,
        )
    )
    monkeypatch.setattr(start, "read_whisper", lambda b: heard)
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
    sizes = {"trunk_dim": 24, "trunk_blocks": 1, "joint_dim": 20, "sound_window": 8}
    about = tmp_path / "config.yaml"
    about.write_text(yaml.safe_dump(read_config(train.CONFIG) | {"sizes": sizes}))
    model = start.begin(train.BUNDLE, tmp_path / "llm", compact.ids, sizes)
    table = llm.model.embed_tokens.weight.detach()
    assert torch.equal(model.reader.model.embed_tokens.weight, table[compact.ids])
    assert set(train.trained(model)) == {
        n
        for n in model.state_dict()
        if n.split(".")[0] == "joint" or n.split(".")[1] in ("trunk", "heads")
    }
    train.save(model, tmp_path / "run", 3, 0.5)
    vocabulary = tmp_path / "vocabulary.json"
    pack.main(
        [str(tmp_path / "run"), "--vocabulary", str(vocabulary), "--llm", str(tmp_path / "llm")]
        + ["--config", str(about), "--out", str(tmp_path / "bundle"), "--weights", "fp32"]
    )
    x = np.random.default_rng(0).standard_normal(16000).astype(np.float32) / 10
    one, two = (Recognizer.load(tmp_path / "bundle", engine=e).family for e in ("onnx", "torch"))
    mode = one.mode(640)
    said = [drive(f.finish(f.open(mode), mode, x)) for f in (one, two)]
    assert said[0].tokens == said[1].tokens
    np.testing.assert_allclose(said[0].said, said[1].said, atol=1e-4)
