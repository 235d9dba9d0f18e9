"""The pieces of the end-of-turn recipe: pauses against a scripted voice activity, the fit against its own conditions."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from recipes.end_of_turn import train
from recipes.end_of_turn.prepare import boundary, choose, save
from speechstream.audio.vad import WINDOW
from speechstream.events import Word
from tools import _turn_data as data
from tools._turn_pauses import WINDOW_S, find_pauses, with_tail


class Scripted:
    """A voice activity that says what a string says: # speech, . silence, ~ neither."""

    def __init__(self, script):
        self.p = np.array([{"#": 0.9, ".": 0.05, "~": 0.4}[c] for c in script])

    def init_state(self):
        return None

    def step(self, samples, state):
        assert samples.shape[1] == len(self.p) * WINDOW
        return self.p[None], None


def pauses(script):
    found = find_pauses(np.zeros(len(script) * WINDOW + 7, np.float32), Scripted(script))
    at = [(p.start / WINDOW_S, None if p.end is None else p.end / WINDOW_S) for p in found]
    return [(round(a), None if b is None else round(b)) for a, b in at]


def test_pauses_are_those_that_a_conversation_notices():
    assert pauses("..####....###....") == [(6, 10), (13, None)]
    assert pauses("####...###.....") == [(10, None)]  # three windows are no pause
    assert pauses("####.#.#.....") == [(8, None)]
    assert pauses("####....#....####.....") == [(4, 13), (17, None)]  # one window is no speech
    assert pauses("###~~~......") == [(6, None)]  # speech fades
    assert pauses("~~~~....") == []


def test_a_recording_goes_on_with_its_own_silence():
    rng = np.random.default_rng(0)
    loud, quiet = rng.normal(0, 0.3, 16_000), rng.normal(0, 0.001, 4_000)
    sound = np.concatenate([loud, quiet, loud]).astype(np.float32)
    tail = with_tail(sound)[len(sound) :]
    assert len(tail) == 8_000 and tail.std() == pytest.approx(0.001, rel=0.1)


def test_marks_of_the_whole_text():
    words = [Word("Well,", 0.0, 0.4), Word("yes.", 0.5, 0.9), Word("Now", 1.5, 1.8)]
    assert [boundary(words, t) for t in (0.1, 0.45, 1.2, 2.0)] == ["", ",", ".", ""]


def test_any_beginning_of_the_choice_is_a_fair_sample():
    rows = [{"source": s, "speaker": "x"} for s in "aaaaabbbbb"] + [
        {"source": "a", "speaker": None}
    ]
    chosen = choose(rows, ["a", "b"], 4, seed=0)
    assert len(set(chosen)) == 8 and 10 not in chosen
    assert [rows[i]["source"] for i in chosen] == ["a", "b"] * 4
    assert choose(rows, ["a", "b"], 2, seed=0) == chosen[:4]


def test_the_fit_is_where_the_gradient_vanishes():
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(200, 5)), rng.uniform(0.5, 2, 200)
    y = (x[:, 0] + rng.normal(size=200) > 0.3).astype(float)
    theta, bias = train.fit(x, y, w, shrink=0.1)
    p = 1 / (1 + np.exp(-(x @ theta + bias)))
    assert x.T @ (w / w.sum() * (y - p)) == pytest.approx(0.1 * theta, abs=1e-6)
    assert w @ y == pytest.approx(w @ p, rel=1e-4)


def decision(source, over, mark=""):
    return SimpleNamespace(source=source, over=over, mark=mark)


def test_every_source_weighs_as_much_for_holds_as_for_ends():
    found = [decision("a", True)] * 3 + [decision("a", False)] + [decision("b", False, ",")] * 4
    found += [decision("b", True, "."), decision("b", False, ".")]
    w = train.weights(found)
    assert w[:3].sum() == pytest.approx(w[3]) and w[4:8].sum() + w[9] == pytest.approx(w[8])
    assert w[9] == w[4] / 2  # between two sentences
    assert (w[:4].sum() / w[4:].sum()) ** 2 == pytest.approx(4 / 5.5)


def test_what_is_stored_is_read(tmp_path):
    frames = np.random.default_rng(2).normal(size=(70, 8)).astype(np.float16)
    row = {
        "start": 1.0,
        "seconds": 0.5,
        "own_tail": 2.0,
        "text": ["Well."],
        "mark": "",
        "frames": frames,
    }
    end = row | {"seconds": np.inf}
    about = {"audio": "a.opus", "speaker": "s", "source": "b", "ends": None}
    save(tmp_path / "00000.npz", about, [row, end])
    (only,) = data.load(tmp_path)  # whether it ended there nobody knows
    assert only.x[8:16] == pytest.approx(frames[-24:].astype(np.float32).mean(0), abs=1e-6)
    save(tmp_path / "00001.npz", about | {"ends": True}, [row, end])
    assert [d.over for d in data.load(tmp_path)] == [False, False, True]
    assert json.loads(str(np.load(tmp_path / "00000.npz")["about"]))["speaker"] == "s"
