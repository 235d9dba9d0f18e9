"""Speech LLMs of random weights: streams, files, pools, forks and snapshots say what a computation from scratch says."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("onnx", reason="writes the graphs")

from safetensors.numpy import load as load_arrays, save as save_arrays

from speechstream import Recognizer, bundle, state as states
from speechstream.asr.speech_llm.family import SEARCHED, load
from speechstream.asr.speech_llm.networks import Hear, Read, example
from speechstream.audio.features import LogMel
from speechstream.errors import SpeechStreamError
from speechstream.events import Final, Partial
from speechstream.nn.speech_llm import SINCE
from speechstream.nn.speech_llm_state import SOUND, TEXT, appended, empty, without_last
from speechstream.runtime.requests import answer_together, drive
from speechstream.state import nbytes
from tests.streamed import pooled
from tools.make_tiny_speech_llm import PIECES, tiny, write

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and its bundle with graphs."""
    model = tiny(2)
    return model, write(tmp_path_factory.mktemp("speech_llm") / "tiny", model)


@pytest.fixture(scope="module")
def asr(made):
    return Recognizer.load(made[1], engine="torch")


@pytest.fixture(scope="module")
def spoken(fixtures_dir):
    import soundfile as sf

    x, rate = sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")
    assert rate == 16000
    return x[: 3 * rate]


def read_all(model, kinds, tokens, sound, heard):
    """Hidden states of rows (T,) read at once from nothing. heard: frames of sound that each knows."""
    c = model.config
    kinds = np.array(kinds)
    places = np.where(kinds == SOUND, np.cumsum(kinds == SOUND), np.cumsum(kinds == TEXT)) - 1
    ids = np.where(kinds == SOUND, -1, tokens)
    none = empty(c)
    rows = (ids, sound, places, np.array(heard), none.keys[0], none.values[0])
    tensors = [torch.from_numpy(np.ascontiguousarray(a))[None] for a in rows]
    nowhere = torch.from_numpy(none.kinds)
    return model.reader(*tensors, nowhere, nowhere)[0][0]


def test_without_sound_it_is_the_language_model_of_transformers(made):
    transformers = pytest.importorskip("transformers")
    model, t = made[0], made[0].config.text
    config = transformers.LlamaConfig(
        vocab_size=t.vocab_size,
        hidden_size=t.dim,
        intermediate_size=t.ff_dim,
        num_hidden_layers=t.layers,
        num_attention_heads=t.heads,
        num_key_value_heads=t.kv_heads,
        rms_norm_eps=t.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": t.rope.base},
    )
    theirs = transformers.LlamaModel(config).eval()
    theirs.load_state_dict(model.reader.model.state_dict(), strict=True)
    ids = np.array([0, 5, 9, 1, 1, 17, 20])  # no more than the window
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(ids)[None]).last_hidden_state[0]
        sound = np.zeros((len(ids), t.dim), np.float32)
        ours = read_all(model, [TEXT] * len(ids), ids, sound, [0] * len(ids))
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def random_rows(c, rng, count):
    """Sound and text in turns: what was read together, as (kind, tokens or sounds)."""
    found = []
    for _ in range(count):
        n = int(rng.integers(1, 4))
        sounds = rng.standard_normal((n, c.text.dim)).astype(np.float32)
        found += [("sound", sounds), ("text", tuple(rng.integers(1, c.text.vocab_size, n)))]
    return found


@torch.inference_mode()
def test_rows_that_come_in_turns_in_windows_with_sinks_equal_all_at_once(asr):
    family, rng = asr.family, np.random.default_rng(0)
    c, model = family.config, family.networks.model
    rows, kinds, tokens, sounds, heard = empty(c), [], [], [], []
    nothing = np.zeros((0, c.text.dim), np.float32)
    for kind, what in random_rows(c, rng, 12):
        if kind == "sound":
            request, count = Read(family.networks, what, (), rows), len(what)
            kinds += [SOUND] * count
            heard += [rows.heard + 1 + i for i in range(count)]
        else:
            request, count = Read(family.networks, nothing, tuple(map(int, what)), rows), len(what)
            kinds += [TEXT] * count
            heard += [rows.heard] * count
        tokens += [0] * count if kind == "sound" else list(what)
        sounds += list(what) if kind == "sound" else [np.zeros(c.text.dim, np.float32)] * count
        before = rows
        read = request.run()
        rows = read.behind(rows, np.array(kinds[-count:]), c)
        hidden = read_all(model, kinds, tokens, np.array(sounds), heard)[-count:]
        np.testing.assert_allclose(read.said, model.joint.text(hidden), atol=1e-4)
        np.testing.assert_allclose(read.prior, model.said(hidden)[1], atol=1e-4)
        # what had been read stays as it is, however much comes between
        for place in before.places[0][before.kinds[0] == TEXT]:
            old, new = (
                r.keys[0][:, :, (r.kinds[0] == TEXT) & (r.places[0] == place)]
                for r in (before, rows)
            )
            assert new.shape[2] == 0 or np.array_equal(old, new)
    assert rows.heard > c.sound_window + c.sound_sinks and rows.read > c.text_window + c.text_sinks
    assert rows.kinds.shape[1] == c.sound_window + c.sound_sinks + c.text_window + c.text_sinks


def test_the_last_token_can_be_read_again(asr):
    family = asr.family
    c, nothing = family.config, np.zeros((0, family.config.text.dim), np.float32)
    expected = Read(family.networks, nothing, (0, 3, 4), empty(c)).run()
    rows = expected.behind(empty(c), np.array([TEXT] * 3), c)
    read = Read(family.networks, nothing, (4,), without_last(rows)).run()
    again = read.behind(without_last(rows), np.array([TEXT]), c)
    np.testing.assert_allclose(read.said[0], expected.said[-1], atol=1e-5)
    np.testing.assert_allclose(again.keys, rows.keys, atol=1e-5)
    with pytest.raises(ValueError, match="no token"):
        without_last(empty(c))
    one = np.zeros((c.text.layers, c.text.kv_heads, 1, c.text.head_dim), np.float32)
    assert appended(empty(c), np.array([SOUND]), one, one, c).heard == 1


def asked_alone(model, audio, encoded, said, since):
    """The joint of one frame, from all encoder frames (1, T, dim) up to its end; attention by its formula."""
    joint, (keys, values) = model.joint, model.hearing.memory(encoded[:, -model.config.look :])
    n = keys.shape[3]
    x = joint.into(audio + said + joint.since.weight[min(since, SINCE - 1)])
    after = torch.arange(-n, 0) + model.config.stack * since + 0.5
    age = torch.stack([(after > 0).float(), (after / 16).clamp(-1, 1)])
    for i, block in enumerate(joint.blocks):
        q = block.query(block.ln(x)).reshape(block.heads, -1)
        heads = []
        for h in range(block.heads):
            score = keys[0, i, h] @ q[h] * q.shape[1] ** -0.5
            score = score + block.place[h, -n:] + block.fresh[h] @ age
            heads.append(score.softmax(0) @ values[0, i, h])
        x = x + block.out(torch.cat(heads))
        x = x + block.mlp(block.mlp_ln(x))
    z = joint.ln(x)
    return joint.gate(z)[0], joint.out(z)


@torch.inference_mode()
def from_scratch(model, about, x, chunk):
    """What the model says of a whole recording, nothing kept: the encoder under its mask, all rows read anew each time."""
    c, special = model.config, 0
    tail = -(-len(x) // 320) + about.tail
    frames = tail + -tail % c.stack
    x = np.concatenate([x, np.zeros(frames * 320 - len(x) + 400, np.float32)])
    mel = torch.from_numpy(LogMel()(x[None])[:, :, : 2 * frames + 1])
    features = model.hearing.stacked(model.hearing.encoder(mel, chunk=chunk), chunk)
    audio, sound, quiet = (a[0] for a in model.hearing.heads(model.hearing.trunk(features)))
    encoded = model.hearing.encoder(mel, chunk=chunk)
    begins = torch.tensor([False] + [p.startswith(b" ") for p in PIECES])
    chunk = frames if chunk is None else chunk
    rows, tokens = [(TEXT, 0, None, 0)], []  # kind, token, sound, frames heard
    ends = []
    for at in range(0, len(audio), chunk // c.stack):
        whole = min(at + chunk // c.stack, len(audio))
        ends += [min(i + SEARCHED, whole) for i in range(at, whole, SEARCHED)]
    heard, t = 0, 0
    for end in ends:
        for i in range(t, end):
            if c.hears and quiet[i] < about.threshold:
                heard += 1
                rows.append((SOUND, 0, sound[i].numpy(), heard))
        last = max(i for i, r in enumerate(rows) if r[0] == TEXT)
        rows.append((TEXT, rows.pop(last)[1], None, heard))
        symbols = 0
        while t < end:
            empty_sound = np.zeros(c.text.dim, np.float32)
            hidden = read_all(
                model,
                [r[0] for r in rows],
                [r[1] for r in rows],
                np.array([empty_sound if r[2] is None else r[2] for r in rows]),
                [r[3] for r in rows],
            )[-1]
            said, prior = model.said(hidden)
            since = t - (tokens[-1][1] if tokens else -1)
            odds, scores = asked_alone(
                model, audio[t], encoded[:, : (t + 1) * c.stack], said, since
            )
            if odds <= 0:
                t, symbols = t + 1, 0
                continue
            scores = scores + prior
            scores[special] = -torch.inf
            if since == 0:
                scores[begins] = -torch.inf
            tokens.append((int(scores.argmax()), t))
            rows.append((TEXT, tokens[-1][0], None, heard))
            symbols += 1
            if symbols == about.max_symbols:
                t, symbols = t + 1, 0
    return tokens


def heard_in_blocks(family, x, mode, rng):
    segment, at = family.open(mode), 0
    while at < len(x):
        n = int(rng.integers(0, 9000))
        segment = drive(family.feed(x[at : at + n], segment, mode))
        at += n
        family.check(segment, min(at, len(x)), mode)
    return drive(family.finish(segment, mode))


@pytest.mark.parametrize("latency", [160, 640, None])
def test_blocks_of_any_size_say_what_a_computation_from_scratch_says(made, asr, spoken, latency):
    family, rng = asr.family, np.random.default_rng(1)
    mode = family.mode(latency)
    expected = from_scratch(made[0], family.about, spoken, mode.chunks[0])
    segment = heard_in_blocks(family, spoken, mode, rng)
    assert list(zip(segment.tokens, segment.at)) == expected and len(expected) > 3
    assert all(0 < t <= len(PIECES) for t, _ in expected)
    assert all(p <= 0 for p in segment.logprobs)


def test_one_that_does_not_hear_reads_its_tokens_alone(tmp_path, spoken):
    model = tiny(3, sound_window=0)
    family = load(bundle.load(write(tmp_path, model, graphs=False)), "torch", "cpu", 1, None, None)
    mode = family.mode(320)
    segment = heard_in_blocks(family, spoken, mode, np.random.default_rng(0))
    expected = from_scratch(model, family.about, spoken, mode.chunks[0])
    assert list(zip(segment.tokens, segment.at)) == expected and expected
    assert segment.rows.heard == 0 and segment.rows.read == len(expected) + 1


def test_graphs_say_what_torch_says(made, asr, spoken):
    onnx = Recognizer.load(made[1]).family
    inputs = example(made[0].config)
    for a, b in zip(onnx.networks.read(inputs), asr.family.networks.read(inputs)):
        real = inputs["tokens"] != -2
        a, b = ((x.transpose(0, 3, 1, 2, 4) if x.ndim == 5 else x)[real] for x in (a, b))
        np.testing.assert_allclose(a, b, atol=1e-4)
    for latency in (160, 1280, None):
        one, two = (
            drive(f.finish(f.open(m := f.mode(latency)), m, spoken)) for f in (onnx, asr.family)
        )
        assert one.tokens == two.tokens and one.at == two.at
        np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-4)
        np.testing.assert_allclose(one.hearing.keys, two.hearing.keys, atol=1e-4)
        np.testing.assert_allclose(one.rows.values, two.rows.values, atol=1e-4)


def events_of(asr, x, seed, latency=640):
    rng, stream, at, out = np.random.default_rng(seed), asr.stream(latency, 16000), 0, []
    while at < len(x):
        n = int(rng.integers(1, 9000))
        out += stream.push(x[at : at + n])
        at += n
    return out + stream.finish()


def test_a_stream_does_not_depend_on_its_blocks_and_only_grows(asr, spoken):
    events = events_of(asr, spoken, 1)
    assert events == events_of(asr, spoken, 2)
    finals = [e for e in events if isinstance(e, Final)]
    assert finals and any(f.text for f in finals)
    before = stable = ""
    for e in events:
        if isinstance(e, Partial):
            assert e.text.startswith(before) and e.stable.startswith(stable)
            before, stable = e.text, e.stable
        elif isinstance(e, Final):
            assert e.text.startswith(before)
            before = stable = ""
            assert " ".join(w.text for w in e.words) == e.text
            starts = [w.start for w in e.words]
            assert starts == sorted(starts)
            assert all(0 < w.confidence <= 1 and w.start <= w.end for w in e.words)


def test_unsynchronised_streams_in_a_pool_equal_each_alone(asr, spoken):
    starts = [0, 4000, 900]
    alone = [events_of(asr, spoken[skip:], 3) for skip in starts]
    said = pooled(asr, spoken, 16000, [(640, skip) for skip in starts])
    for events, expected in zip(said, alone, strict=True):
        assert [e.text for e in events if isinstance(e, Final)] == [
            e.text for e in expected if isinstance(e, Final)
        ]


def test_streams_of_any_age_share_runs_of_the_networks(asr, spoken):
    family = asr.family
    mode, works = family.mode(640), []
    for n in (12000, 24000):
        s = drive(family.feed(spoken[:n], family.open(mode), mode))
        works.append(family.feed(spoken[-16000:], s, mode))
    hear = [w.send(None) for w in works]
    assert {type(r) for r in hear} == {Hear} and len({r.key for r in hear}) == 1
    answers = dict(answer_together(hear))
    reads = [w.send(answers[i]) for i, w in enumerate(works)]
    assert {type(r) for r in reads} == {Read} and reads[0].key == reads[1].key
    assert reads[0].rows.kinds.shape != reads[1].rows.kinds.shape
    together = dict(answer_together(reads))
    for i, request in enumerate(reads):
        alone = request.run()
        for name in ("said", "prior", "keys", "values"):
            np.testing.assert_allclose(getattr(together[i], name), getattr(alone, name), atol=1e-4)


def test_forks_rollbacks_and_snapshots_go_on_as_if_nothing_had_been(asr, spoken):
    expected = events_of(asr, spoken, 1)
    stream, events, at = asr.stream(640, 16000), [], 0
    while at < len(spoken) * 2 // 3:
        events += stream.push(spoken[at : at + 3000])
        at += 3000
    assert stream.state.segment is not None and stream.state.segment.decoding.frames
    state, data = stream.state, stream.to_bytes()
    twin, moved = stream.fork(), asr.resume(data)
    stream.push(spoken[::-1].copy())
    stream.rollback(state)
    for one in (twin, moved, stream):
        assert events + one.push(spoken[at:]) + one.finish() == expected


def test_memory_is_constant_however_long_a_segment_is(asr, spoken):
    family = asr.family
    mode, sizes = family.mode(160), []
    segment = family.open(mode)
    for _ in range(6):
        segment = drive(family.feed(spoken, segment, mode))
        arrays = (segment.rows.keys, segment.rows.values, segment.rows.kinds)
        sizes.append(sum(a.nbytes for a in arrays) + nbytes(segment.hearing))
    assert len(set(sizes[2:])) == 1
    family.check(segment, 6 * len(spoken), mode)


def test_false_snapshots_are_refused_in_one_sentence(asr, spoken):
    stream = asr.stream(640, 16000)
    stream.push(spoken[:32000])
    data = stream.to_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["speechstream"])

    def refused(change):
        content, arrays = json.loads(head["content"]), load_arrays(data)
        change(content["values"]["segment"]["decoding"], arrays)
        text = json.dumps(content)
        new = head | {"content": text, "sha256": states._digest(text, arrays)}
        with pytest.raises(SpeechStreamError) as error:
            asr.resume(save_arrays(arrays, {"speechstream": json.dumps(new)}))
        assert "\n" not in str(error.value) and len(str(error.value)) < 600

    at = "segment.decoding."
    refused(lambda d, a: d.update(samples=d["samples"] - 1))
    refused(lambda d, a: d.update(frames=d["frames"] + 8))
    refused(lambda d, a: d.update(tokens=[*d["tokens"], 10**5]))
    refused(lambda d, a: d.update(tokens=[*d["tokens"], 3]))
    refused(lambda d, a: d["rows"].update(heard=d["rows"]["heard"] + 1))
    refused(lambda d, a: d["rows"].update(read=d["rows"]["read"] + 1))
    for name in ("hearing.keys", "hearing.trunk", "rows.keys", "waiting", "said", "prior"):
        refused(lambda d, a, n=at + name: a.update({n: np.ascontiguousarray(a[n][..., :-1])}))
        refused(lambda d, a, n=at + name: a.update({n: a[n].astype(np.float64)}))
    for name in ("hearing.frames", "rows.places"):
        refused(lambda d, a, n=at + name: a.update({n: a[n] + 1}))
    assert asr.resume(data).push(spoken[:10]) == []


def written(family, pieces, at):
    """A finished segment that says these pieces in these frames."""
    tokens = tuple(1 + PIECES.index(p) for p in pieces)
    segment = family.open(family.mode(640))
    given = {"tokens": tokens, "at": tuple(at), "logprobs": (-0.5,) * len(tokens)}
    return replace(segment, samples=48000, frames=40, **given)


def test_words_end_with_their_letters_and_a_sentence_with_its_mark(asr):
    family = asr.family
    said = written(family, [b" rain", b" sang", b"s", b"."], [5, 14, 15, 20])
    assert family.text(said) == ("rain", "sangs.")
    assert family.text(replace(said, final=True)) == ("rain sangs.", "")
    rain, sangs = family.words(replace(said, final=True), 0.1)
    assert (rain.text, sangs.text) == ("rain", "sangs.")
    delay = family.about.delay
    assert rain.end == pytest.approx((6 - delay) * 0.08)
    assert sangs.end == pytest.approx((16 - delay) * 0.08) and sangs.start >= rain.end
    assert rain.confidence == pytest.approx(np.exp(-0.5))
    assert family.sentence_end(said) == pytest.approx((21 - delay) * 0.08)
    assert family.sentence_end(written(family, [b" rain"], [5])) is None
    assert family.sentence_end(family.open(family.mode(None))) is None


def test_the_command_line_runs_a_bundle(made, fixtures_dir, capsys):
    from speechstream.cli import main

    path = fixtures_dir / "austen_0880.flac"
    assert main(["transcribe", str(path), "--model", str(made[1])]) == 0
    said = capsys.readouterr().out
    assert said.split() == Recognizer.load(made[1]).transcribe(path).text.split()


def test_what_it_cannot_do_is_said(made, asr, tmp_path):
    b = bundle.load(made[1])
    with pytest.raises(ValueError, match="latency_ms must be one of 160, 320, 640, 1280"):
        asr.stream(500)
    with pytest.raises(ValueError, match="engine must be"):
        Recognizer.load(made[1], engine="tensorflow")
    with pytest.raises(SpeechStreamError, match="one decoder"):
        Recognizer.load(made[1], decoder="ctc")
    with pytest.raises(ValueError, match="no option"):
        load(b, "torch", "cpu", 1, None, None, dtype="int3")
    plain = write(tmp_path / "plain", made[0], graphs=False)
    with pytest.raises(SpeechStreamError, match="no ONNX graphs"):
        Recognizer.load(plain)
    about = json.loads((plain / "bundle.json").read_text())
    for change, match in (
        ({"trunk_dim": 25}, "does not fit"),
        ({"look": 10}, "look must be a multiple of 4"),
        ({"text_window": 0}, "text_window must be"),
        ({"kernel": 10**9}, "kernel must be"),
    ):
        network = about["config"]["network"] | change
        (plain / "bundle.json").write_text(
            json.dumps(about | {"config": about["config"] | {"network": network}})
        )
        with pytest.raises(SpeechStreamError, match=match):
            Recognizer.load(plain, engine="torch")
