"""Streams on replicas, without a cluster: replicas die, answers are lost, seats are few, and all is told once."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from test_worker_dispatch import TEXTS, WORDS, same
from toys import CORES, RATE, alone

from speechstream.errors import SpeechStreamError
from speechstream.events import from_json
from speechstream.runtime.pool import Pool
from speechstream.serve import ray, replay
from speechstream.serve.ray import Remote, Replica, Session
from speechstream.serve.ray_speech import Speech

FATES = ("answer", "answer", "answer", "answer", "death", "loss")  # of the replica; of its answer


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Requests go to a `Cluster` of this process, and many snapshots are taken."""
    monkeypatch.setattr(Remote, "_ask", lambda self, asked: self.handle.ask(self, asked))
    monkeypatch.setattr(ray, "RETRY_S", 0.0)
    monkeypatch.setattr(replay, "due", partial(replay.due, pause_s=0.5, speech_s=1.0))


class Cluster:
    """Replicas in this process, of which any may die. make: a new one; fate: what becomes of a request."""

    def __init__(self, make, fate):
        self._make, self._fate, self.snapshots = make, fate, 0
        self.replicas = [make(), make()]

    def options(self, multiplexed_model_id):
        return self

    def ask(self, session, asked):
        names = [replica.name for replica in self.replicas]
        known = session._replica in names
        number = names.index(session._replica) if known else session.handovers % len(names)
        fate = self._fate()
        if fate == "death":
            self.replicas[number] = self._make()
            return None
        (answer,) = self.replicas[number].step([asked])
        self.snapshots += answer.get("snapshot") is not None
        return None if fate == "loss" else answer


def toys(kind, fate, slots=1):
    core = CORES[kind]
    pool = partial(Pool, slots, lambda **options: core, lambda data: ())
    return Cluster(lambda: Replica(pool(), kind == "speak", RATE), fate)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_spoken_is_told_once(data):
    """By two streams on two replicas of one seat, so that they put each other out as well."""
    cluster = toys("speak", lambda: data.draw(st.sampled_from(FATES)))
    streams, given_, told = [Speech(cluster), Speech(cluster)], ([], []), ([], [])
    for _ in range(data.draw(st.integers(1, 8))):
        n, text = data.draw(st.integers(0, 1)), data.draw(TEXTS)
        streams[n].push(text)
        given_[n].append(text)
        for _, block in zip(range(data.draw(st.integers(0, 8))), streams[n]):
            told[n].append(block)
    for n, stream in enumerate(streams):
        stream.end()
        told[n].extend(stream)
        same(told[n], alone("speak", given_[n]))
        assert list(stream) == []


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_heard_is_told_once(data):
    cluster = toys("hear", lambda: data.draw(st.sampled_from(FATES)))
    streams, given_, told = [Session(cluster), Session(cluster)], ([], []), ([], [])
    for session in streams:
        session.rate = RATE
    for _ in range(data.draw(st.integers(1, 10))):
        n, x = data.draw(st.integers(0, 1)), np.float32(data.draw(WORDS))
        told[n].extend(streams[n]._hear(x))
        given_[n].append(x)
    for n, stream in enumerate(streams):
        told[n].extend(stream.finish())
        same(told[n], alone("hear", given_[n]))


def test_a_block_that_somebody_else_s_request_has_made_is_kept():
    """One batch steps all streams of the replica; who is not in it is not forgotten."""
    replica = Replica(Pool(2, lambda **options: CORES["speak"], lambda data: ()), True, RATE)
    asked = {"session": "a", "at": 0, "inputs": ["abc"], "state": {}, "finish": False}
    first, other = replica.step(
        [asked | {"unsaved": 0.0}, asked | {"session": "b", "unsaved": 0.0}]
    )
    assert len(first["events"]) == len(other["events"]) == 1
    again = asked | {"at": 1, "inputs": [], "state": None, "unsaved": 0.0}
    for number in (2, 3):  # "b" is not asked for, and is not stepped
        (answer,) = replica.step([again])
        assert from_json(answer["events"][0]).words[0].text == " abc"[number]
    (answer,) = replica.step([again | {"session": "b"}])
    assert from_json(answer["events"][0]).words[0].text == "b"
    (missing,) = replica.step([again | {"session": "b", "at": 7}])
    assert missing == {"missing": True}


def test_the_embedded_voice_goes_on_to_the_sample(embedded_tts):
    """Replicas are killed twice, with snapshots within the sentence."""
    tts, count = embedded_tts, 0

    def fate():
        nonlocal count
        count += 1
        return "death" if count in (6, 13) else "answer"

    cluster = Cluster(lambda: Replica(tts.pool(2), True, tts.sample_rate), fate)
    stream, blocks = Speech(cluster, speed=1.5), []
    for text in ("It rained, so we stayed inside. ", b"Nobody came."):
        stream.push(text)
        blocks += stream
    stream.end()
    blocks += stream
    whole = tts.synthesize("It rained, so we stayed inside. Nobody came.", speed=1.5)
    assert stream.handovers == 2 and cluster.snapshots >= 2
    at = np.cumsum([0] + [len(block.pcm) for block in blocks])[:-1] / tts.sample_rate
    np.testing.assert_allclose([block.start for block in blocks], at)
    sound = np.concatenate([block.pcm for block in blocks])
    assert sound.shape == whole.pcm.shape and np.abs(sound - whole.pcm).max() < 1e-4
    assert [w.text for block in blocks for w in block.words] == [w.text for w in whole.words]


def test_what_cannot_be_is_told_in_a_sentence(embedded_tts):
    tts = embedded_tts
    cluster = Cluster(lambda: Replica(tts.pool(2), True, tts.sample_rate), lambda: "answer")
    stream = Speech(cluster, voice="nobody")
    stream.push("Hello. ")
    with pytest.raises(SpeechStreamError, match="no speaker 'nobody'"):
        list(stream)
    with pytest.raises(SpeechStreamError, match="has ended"):
        stream.push("Hello. ")
    with pytest.raises(ValueError):
        Speech(cluster).push(3)
    assert list(Speech(cluster)) == []


def test_a_stream_that_fails_says_so_to_its_own():
    replica = Replica(Pool(2, lambda **options: CORES["hear"], lambda data: ()))
    cluster = Cluster(lambda: replica, lambda: "answer")
    session = Session(cluster)
    with pytest.raises(SpeechStreamError, match="deadly"):
        session._hear(np.float32([1, -1, 0, 0]))
    assert Session(cluster)._hear(np.float32([1, 2, 3, 4]))
