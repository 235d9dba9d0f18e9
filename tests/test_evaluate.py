"""The evaluation tool on a recogniser that says what a script tells it, when the script tells it."""

import functools
import json
import random

import numpy as np
import pytest
import soundfile

from speechstream.events import Endpoint, Final, Partial, Transcript, Word
from tools import _scoring, evaluate_asr

RATE = 16_000
DURATION = 3.0
WORDS = (
    ("The", 0.5),
    ("cat", 1.0),
    ("sat", 1.5),
    ("down.", 2.4),
)  # what is said, and when each word ends
SCRIPT = (  # (seconds heard, event)
    (0.8, Partial("", "The", 0.8)),
    (1.2, Partial("The", "cap", 1.2)),
    (1.6, Partial("The", "cat", 1.6)),  # revised: "cat" first shows here
    (1.8, Partial("The cat", "sat on", 1.8)),
    (2.6, Endpoint(2.45, 2.6)),
)
FINAL = Final(
    "The cat sat town.",
    (
        Word("The", 0.2, 0.54, 0.9),
        Word("cat", 0.6, 1.0, 0.9),
        Word("sat", 1.1, 1.44, 0.8),
        Word("town.", 1.9, 2.5, 0.5),
    ),
    0.1,
    2.45,
)


class ScriptedStream:
    def __init__(self, rate, clock):
        self.rate, self.clock, self.samples, self.said = rate, clock, 0, 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def push(self, block):
        assert len(block) <= round(0.02 * self.rate)
        self.samples += len(block)
        events = []
        while self.said < len(SCRIPT) and SCRIPT[self.said][0] <= self.samples / self.rate + 1e-9:
            events.append(SCRIPT[self.said][1])
            self.said += 1
        self.clock.now += 0.1 if events else 0.0  # a step that says something takes 100 ms
        return iter(events)

    def finish(self):
        self.clock.now += 0.5
        return [FINAL]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Scripted:
    latencies = (160, 320)

    def __init__(self):
        self.clock = Clock()

    def stream(self, latency_ms, sample_rate):
        return ScriptedStream(sample_rate, self.clock)

    def transcribe(self, samples, sample_rate):
        self.clock.now += 0.3
        return Transcript((FINAL,), len(samples) / sample_rate)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        ("a.wav", "THE CAT SAT DOWN", "librispeech_train100"),
        ("b.wav", "The cat sat, didn't it?", "common_voice_x"),
        ("c.wav", None, "common_voice_x"),
    ]
    for name, _, _ in rows:
        soundfile.write(tmp_path / name, rng.normal(size=round(DURATION * RATE)) * 0.1, RATE)
    lines = [json.dumps({"audio": a, "text": t, "source": s}) + "\n" for a, t, s in rows]
    (tmp_path / "m.jsonl").write_text("".join(lines))
    (tmp_path / "ends.jsonl").write_text(
        json.dumps(
            {"audio": "a.wav", "text": " ".join(w for w, _ in WORDS), "ends": [e for _, e in WORDS]}
        )
        + "\n"
    )
    return tmp_path


def utterances(folder):
    return evaluate_asr.read_manifest(folder / "m.jsonl", folder / "ends.jsonl")


def test_words_are_timed_by_the_audio_heard(folder):
    asr = Scripted()
    a = next(u for u in utterances(folder) if u.name == "a.wav")
    r = evaluate_asr.stream_one(asr, a, 320, timer=asr.clock)
    assert r.text == "The cat sat town." and r.audio_s == DURATION
    assert r.compute_s == pytest.approx(
        5 * 0.1 + 0.5
    )  # five steps that say something, and the last
    assert r.endpoints == ({"time": 2.45, "decided": 2.6, "heard": pytest.approx(2.6)},)
    s = evaluate_asr.summarise([r], str.lower)["LibriSpeech"]
    # The, cat, sat were shown at 0.8, 1.6, 1.8 and end at 0.5, 1.0, 1.5; "town" is wrong and does not count
    assert s["emission_ms"] == {"median": 300.0, "p90": pytest.approx(540.0), "words": 3}
    assert s["emission_with_compute_ms"] == {
        "median": 400.0,
        "p90": pytest.approx(640.0),
        "words": 3,
    }
    # stable at 1.2 and 1.8, and "sat" only in the final, at 3.0
    assert s["stable_ms"] == {"median": 800.0, "p90": pytest.approx(1360.0), "words": 3}
    assert s["word_end_error_ms"] == {"median": 40.0, "p90": pytest.approx(56.0), "words": 3}
    assert s["word_end_bias_ms"] == pytest.approx(0.0)
    assert s["flushed"] == 0
    assert s["rtf"] == pytest.approx(1.0 / 3.0)


def test_a_computer_that_falls_behind_stays_behind(folder):
    asr = Scripted()
    a = utterances(folder)[-1]
    push = ScriptedStream.push

    class Slow(ScriptedStream):
        def push(self, block):
            self.clock.now += 0.03  # 30 ms for every 20 ms of audio
            return push(self, block)

    asr.stream = lambda latency_ms, sample_rate: Slow(sample_rate, asr.clock)
    r = evaluate_asr.stream_one(asr, a, 320, timer=asr.clock)
    first = r.shown[0]
    assert (first.heard, first.due) == (pytest.approx(0.8), pytest.approx(0.02 + 40 * 0.03 + 0.1))


def test_what_only_the_end_brought_is_told_apart(folder):
    asr = Scripted()
    asr.stream = lambda latency_ms, sample_rate: type(
        "Silent", (ScriptedStream,), {"push": lambda self, b: []}
    )(sample_rate, asr.clock)
    a = next(u for u in utterances(folder) if u.name == "a.wav")
    for tail, heard in ((0.0, 3.0), (1.5, 4.5)):
        r = evaluate_asr.stream_one(asr, a, 320, tail_s=tail, timer=asr.clock)
        s = evaluate_asr.summarise([r], str.lower)["all"]
        assert s["flushed"] == 1.0
        assert s["emission_ms"]["median"] == pytest.approx(1000 * (heard - 1.0))
        assert r.audio_s == DURATION


def test_latencies_are_those_of_the_model(folder):
    args = evaluate_asr.parse(["--manifest", str(folder / "m.jsonl")])
    report, _ = evaluate_asr.evaluate(args, utterances(folder), Scripted())
    assert [r["latency"] for r in report["results"]] == ["160", "320", "offline"]
    with pytest.raises(
        SystemExit, match="--latency 560 is not possible with this model; it has 160, 320, offline"
    ):
        evaluate_asr.evaluate(
            evaluate_asr.parse(["--manifest", "m.jsonl", "--latency", "560"]), [], Scripted()
        )
    with pytest.raises(SystemExit):
        evaluate_asr.parse(["--manifest", "m.jsonl", "--latency", "fast"])


def test_report_tables_and_pictures(folder, capsys):
    args = evaluate_asr.parse(
        [
            "--manifest",
            str(folder / "m.jsonl"),
            "--latency",
            "320",
            "offline",
            "--baseline",
            str(folder / "base.json"),
            "--picture",
            str(folder / "wer.png"),
            "--timeline",
            str(folder / "time.png"),
            "--utterance",
            "a.wav",
        ]
    )
    (folder / "base.json").write_text(json.dumps({"LibriSpeech": 20, "Common Voice": 50}))
    report, results = evaluate_asr.evaluate(args, utterances(folder), Scripted())
    live, offline = report["results"]
    assert (live["latency"], offline["latency"]) == ("320", "offline")
    libri, common = live["sets"]["LibriSpeech"], live["sets"]["Common Voice"]
    assert (libri["words"], libri["substitutions"], libri["deletions"], libri["insertions"]) == (
        4,
        1,
        0,
        0,
    )
    # "the cat sat did not it": three words right, "town" for one of the others, the other two missing
    assert (
        common["words"],
        common["substitutions"],
        common["deletions"],
        common["insertions"],
    ) == (6, 1, 2, 0)
    assert live["sets"]["all"]["wer"] == pytest.approx(4 / 10)
    assert common["emission_ms"] is None and offline["sets"]["LibriSpeech"]["emission_ms"] is None
    table = evaluate_asr.markdown(json.loads(json.dumps(report)))
    assert "| 320 | LibriSpeech | 1 | 4 | 25.0 | 25.0 | 0.0 | 0.0 | 1.25 | 300 / 540 |" in table
    assert "| offline | Common Voice | 1 | 6 | 50.0 | 16.7 | 33.3 | 0.0 | 1.00 | - |" in table
    assert live["peak_rss_mb"] > 10
    evaluate_asr.draw(args, report, results)
    for name in ("wer.png", "time.png"):
        image = png_size(folder / name)
        assert image[0] > 800 and image[1] > 400
    words = evaluate_asr.timeline_words(
        next(r for r in results["320"] if r.utterance.name == "a.wav")
    )
    assert [(w["text"], w["shown"]) for w in words] == [
        ("The", pytest.approx(0.8)),
        ("cat", pytest.approx(1.6)),
        ("sat", pytest.approx(1.8)),
        ("town.", 3.0),
    ]
    assert [w["end"] for w in words] == [0.5, 1.0, 1.5, 2.5]


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_manifest_sets_limit_and_seed(tmp_path):
    rows = [
        {"audio": f"{n}.wav", "text": "x", "source": s}
        for s in (
            "librispeech_test_other",
            "librispeech_dev_clean",
            "common_voice_2024",
            "speechocean762",
            "mine",
        )
        for n in range(9)
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    read = functools.partial(evaluate_asr.read_manifest, tmp_path / "m.jsonl")
    assert {u.set for u in read()} == {
        "LibriSpeech other",
        "LibriSpeech",
        "Common Voice",
        "speechocean762",
        "mine",
    }
    assert len(read()) == 45 and len(read(limit=2)) == 10
    assert read(limit=4, seed=1) == read(limit=4, seed=1) != read(limit=4, seed=2)
    dates = tmp_path / "dates.jsonl"
    dates.write_text(
        json.dumps({"audio": "1.wav", "words": ["A", "-", "b."], "ends": [1.0, 1.0, 1.5]})
    )
    assert {u.ends for u in read(dates=dates)} == {(), (("a", 1.0), ("b", 1.5))}
    dates.write_text(json.dumps({"audio": "1.wav", "text": "a b", "ends": [1.0]}))
    with pytest.raises(ValueError, match="2 words and 1 ends"):
        read(dates=dates)
    (tmp_path / "m.jsonl").write_text("")
    with pytest.raises(ValueError, match="no recording"):
        read()


def distance(a, b):
    """Edit distance by its definition."""

    @functools.cache
    def d(i, j):
        if not i or not j:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


def test_error_counts_are_the_edit_distance():
    rng = random.Random(0)
    for _ in range(100):
        a, b = ([rng.choice("xyz") for _ in range(rng.randint(0, 8))] for _ in range(2))
        e = _scoring.count_errors(a, b)
        assert e.total == distance(a, b)
        assert e.words == len(a) and len(a) - e.deletions + e.insertions == len(b)
        open_ = _scoring.alignment(a, b, open_end=True)
        used = 1 + max((i for i, _ in open_ if i is not None), default=-1)
        cost = [distance(a[:n], b) for n in range(len(a) + 1)]
        assert used == cost.index(min(cost))
    e = _scoring.count_errors("a b c d".split(), "a x c d e".split())
    assert (e.substitutions, e.deletions, e.insertions, e.wer) == (1, 0, 1, 0.5)
    assert (
        _scoring.count_errors([], ["a"]).wer == float("inf")
        and _scoring.count_errors([], []).wer == 0
    )


def test_first_shown_does_not_take_a_later_word_for_an_earlier_one():
    final = "the cat and the dog".split()
    shown = ["", "The", "the hat", "the cat", "the", "the cat, and the", "the cat and the dog"]
    assert _scoring.first_shown(final, shown) == [1, 3, 5, 5, 6]


def test_normaliser_is_whispers():
    """Against the port in transformers, which is given the same table of spellings."""
    from importlib.resources import files

    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    table = json.loads((files("whisper_normalizer") / "normalizers" / "english.json").read_text())
    ours, theirs = _scoring.english_normaliser(), EnglishTextNormalizer(table)
    for text in (
        "Mr. Brown's colour WON'T do, um, it's $20 million!",
        "twenty-one (laughs) thousand and two hundred",
        "THE GREY CENTRE OF MISTER O'NEIL",
        "I'd've said: 3.5 per cent, the 1960s & the 42nd",
        "",
    ):
        assert ours(text) == theirs(text)
    assert ours("It's twenty-one, Mr. Brown's colour.") == "it is 21 mister brown is color"
