"""The Realtime protocol as a pure machine: every event by OpenAI's own types, whatever a client sends."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("openai.types.realtime")

from hypothesis import given, settings, strategies as st

from speechstream.duplex.events import SpokenWord
from speechstream.serve.realtime import messages as p
from speechstream.serve.realtime.protocol import Protocol
from speechstream.serve.realtime.session import Offer, opening
from speechstream.serve.realtime.update import updated
from tests.serve.realtime_rules import Ledger, checked

OFFER = Offer(("af_heart", "am_michael"), instructions="Be brief.", tools=True)
RULES = Protocol(OFFER)
SOUND = base64.b64encode(np.zeros(2400, "<i2").tobytes()).decode()
TWO = (SpokenWord(0, 12_000, 0, 3), SpokenWord(12_000, 24_000, 4, 9))  # "One," and "two."


class Connection:
    """The machine with its state, every event seen by the ledger."""

    def __init__(self, transcription=False):
        self.ledger, self.commands = Ledger(), []
        out, self.state = RULES.init_state("x", transcription)
        self.take(out)

    def take(self, out):
        events = [e for e in out if isinstance(e, dict)]
        self.commands += [c for c in out if not isinstance(c, dict)]
        for e in events:
            self.ledger.see(json.loads(json.dumps(e, allow_nan=False)))
        return events

    def say(self, x):
        out, self.state = RULES.step(x, self.state)
        return self.take(out)

    def send(self, kind, **fields):
        return self.say(p.Client({"type": kind, **fields}))

    def update(self, **session):
        return self.send("session.update", session={"type": self.state.session.type, **session})

    def input(self, **heard):
        return self.update(audio={"input": heard})


def kinds(events):
    return [e["type"] for e in events]


def error(events):
    (event,) = events
    assert event["type"] == "error"
    return event["error"]


def user(text="Hello."):
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content}


def answered(c, text="One, two.", samples=24_000, words=TWO):
    """Let a spoken answer be given."""
    c.send("response.create")
    id = c.state.response.id
    events = c.say(p.Spoke(id, b"\0\0", samples, text, words)) + c.say(p.Answered(id))
    return events, c.state.items[-1].id


def test_a_connection_is_greeted():
    out, _ = RULES.init_state("x", model="gpt-realtime")
    assert kinds(out) == ["session.created", "conversation.created"]
    session = checked(out[0]).session
    assert (
        session.model == "gpt-realtime" and session.audio.input.turn_detection.type == "server_vad"
    )
    out, _ = RULES.init_state("x", transcription=True)
    assert kinds(out) == ["session.created"] and out[0]["session"]["type"] == "transcription"


def test_a_model_that_is_not_here_is_refused_and_changes_nothing():
    rules = Protocol(replace(OFFER, models=("ours", "gpt-realtime"), hearing=("ears", "whisper-1")))
    _, state = rules.init_state("x", model="gpt-realtime")

    def updated(**session):
        event = {"type": "session.update", "session": {"type": "realtime", **session}}
        out, after = rules.step(p.Client(event), state)
        return out[0], after

    for session, path in (
        ({"model": "gpt-9"}, "session.model"),
        (
            {"audio": {"input": {"transcription": {"model": "ours"}}}},
            "session.audio.input.transcription.model",
        ),
    ):
        out, after = updated(**session)
        assert error([out]) | {"message": ""} == {
            "type": "invalid_request_error",
            "code": "model_not_found",
            "param": path,
            "message": "",
            "event_id": None,
        }
        assert after.session == state.session
    _, after = updated(model="ours", audio={"input": {"transcription": {"model": "ears"}}})
    assert after.session.model == "ours" and after.session.transcription.model == "ears"


def test_a_manual_turn_is_answered_after_its_words_are_known():
    c = Connection()
    c.input(turn_detection=None, transcription={"model": "whisper-1"})
    assert c.send("input_audio_buffer.append", audio=SOUND) == []
    assert c.say(p.Words("Hello")) and c.ledger.deltas
    committed, added = c.send("input_audio_buffer.commit")
    assert committed["item_id"] == added["item"]["id"]
    assert kinds(c.send("response.create")) == ["response.created"]
    assert not [x for x in c.commands if isinstance(x, p.Answer)]
    events = c.say(p.Transcribed(committed["item_id"], "Hello there.", 0.1))
    assert [k.split(".")[-1] for k in kinds(events)] == ["delta", "completed", "done"]
    assert events[1]["usage"] == {"type": "duration", "seconds": 0.1}
    assert isinstance(c.commands[-1], p.Answer)
    assert RULES.messages(c.state) == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello there."},
    )


def test_a_transcription_that_is_asked_for_within_a_turn_is_told_from_its_beginning():
    c = Connection()
    c.input(turn_detection=None)
    c.send("input_audio_buffer.append", audio=SOUND)
    assert c.say(p.Words("And")) == []
    c.input(transcription={"model": "whisper-1"})
    c.say(p.Words("And he"))
    item = c.send("input_audio_buffer.commit")[0]["item_id"]
    c.input(transcription=None)
    assert c.say(p.Words("And he went", item)) == []
    c.input(transcription={"model": "whisper-1"})
    c.say(p.Transcribed(item, "And he went.", 0.1))
    assert c.ledger.deltas == {item: "And he went."}


def test_a_spoken_turn_in_order():
    c = Connection()
    events = c.say(p.TurnBegan(120)) + c.say(p.TurnEnded(1500, "Hi"))
    item = c.state.items[0].id
    events += c.say(p.Transcribed(item, "Hi.", 1.4)) + c.say(p.Answering())
    r = c.state.response.id
    events += c.say(p.Spoke(r, b"\1\0", 24_000, "One, two.", TWO)) + c.say(p.Answered(r))
    assert kinds(events) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",  # no transcription was asked for
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    done = events[-1]["response"]
    assert done["status"] == "completed" and done["usage"]["output_token_details"] == {
        "text_tokens": 2,
        "audio_tokens": 20,
    }
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "One, two."}]


def test_an_answer_in_text():
    c = Connection()
    c.send("conversation.item.create", item=user())
    events = c.send(
        "response.create", response={"output_modalities": ["text"], "metadata": {"a": "b"}}
    )
    assert events[0]["response"]["metadata"] == {"a": "b"}
    r = c.state.response.id
    events = c.say(p.Wrote(r, "Good ")) + c.say(p.Wrote(r, "day.")) + c.say(p.Answered(r))
    assert kinds(events)[3:] == [
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert c.state.items[-1].text == "Good day."


def test_truncation_cuts_to_the_words_that_were_heard():
    for ms, heard, told in (
        (0, "", 0),
        (499, "", 499),
        (500, "One,", 500),
        (10**6, "One, two.", 1000),
    ):
        c = Connection()
        _, item = answered(c)
        (event,) = c.send(
            "conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=ms
        )
        assert event["audio_end_ms"] == told
        (event,) = c.send("conversation.item.retrieve", item_id=item)
        assert event["item"]["content"][0]["transcript"] == heard
        assert [m["content"] for m in RULES.messages(c.state)[1:]] == ([heard] if heard else [])


def test_no_later_place_brings_a_word_back():
    c = Connection()
    _, item = answered(c)
    told = []
    for ms in (700, 1000, 499, 10**6, 700):
        (event,) = c.send(
            "conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=ms
        )
        told.append((event["audio_end_ms"], c.state.find(item).text))
    assert told == [(700, "One,"), (700, "One,"), (499, ""), (499, ""), (499, "")]
    c.say(p.Interrupted(c.state.last, 24_000))
    assert c.state.find(item).text == ""


def test_an_interruption_cuts_and_a_client_that_knows_better_corrects_it():
    c = Connection()
    c.send("response.create")
    r = c.state.response.id
    c.say(p.Spoke(r, b"\0\0", 24_000, "One, two.", TWO))
    c.say(p.TurnBegan(100))
    done = c.say(p.Interrupted(r, 13_000))[-1]["response"]
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    item = c.state.items[-1]
    assert item.status == "incomplete" and item.text == "One,"
    c.send("conversation.item.truncate", item_id=item.id, content_index=0, audio_end_ms=1000)
    assert c.state.items[-1].text == "One, two."
    _, last = answered(c)  # all was sent, and is still being played
    c.say(p.Interrupted(c.state.last, 0))
    assert c.state.find(last).text == ""


def test_a_client_cancels_once():
    c = Connection()
    assert error(c.send("response.cancel"))["code"] == "response_cancel_not_active"
    c.send("response.create")
    r = c.state.response.id
    assert error(c.send("response.create"))["code"] == "conversation_already_has_active_response"
    assert error(c.send("response.cancel", response_id="other"))["param"] == "response_id"
    (done,) = c.send("response.cancel", response_id=r)
    assert done["response"]["status_details"]["reason"] == "client_cancelled"
    assert c.commands[-1] == p.Stop(r)
    assert c.say(p.Spoke(r, b"\0\0", 1, "late")) == [] == c.say(p.Answered(r))


def test_a_failed_answer_says_why():
    c = Connection()
    c.send("response.create")
    (event,) = c.say(p.Broke(c.state.response.id, "nobody answers"))
    assert event["response"]["status_details"]["error"]["message"] == "nobody answers"


def test_responses_outside_of_the_conversation():
    c = Connection()
    c.send("conversation.item.create", item=user("Remember this."))
    kept = c.state.items[0].id
    own = [{"type": "item_reference", "id": kept}, user("What was it?")]
    options = {
        "conversation": "none",
        "input": own,
        "instructions": "",
        "output_modalities": ["text"],
    }
    (created,) = c.send("response.create", response=options)
    assert created["response"]["conversation_id"] is None
    assert isinstance(c.commands[-1], p.Answer)
    assert [m["content"] for m in RULES.messages(c.state)] == ["Remember this.", "What was it?"]
    r = c.state.response.id
    events = c.say(p.Wrote(r, "This.")) + c.say(p.Answered(r))
    assert "conversation.item.added" not in kinds(events) and len(c.state.items) == 1
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "This."


def test_items_in_their_places():
    c = Connection()
    for id, before in (("b", None), ("a", "root"), ("c", "b")):
        fields = {"previous_item_id": before} if before else {}
        c.send("conversation.item.create", item=user(id) | {"id": id}, **fields)
    assert [i.id for i in c.state.items] == ["a", "b", "c"]
    assert (
        error(c.send("conversation.item.create", item=user() | {"id": "a"}))["code"]
        == "item_exists"
    )
    assert error(c.send("conversation.item.delete", item_id="z"))["code"] == "item_not_found"
    c.send("conversation.item.delete", item_id="b")
    output = {"type": "function_call_output", "call_id": "c1", "output": "42"}
    c.send("conversation.item.create", item=output)
    assert [m["content"] for m in RULES.messages(c.state)[1:]] == ["a", "c", "42"]


def test_functions_are_called_and_their_results_told():
    c = Connection()
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    (event,) = c.update(tools=[tool], tool_choice={"type": "function", "name": "weather"})
    assert checked(event).session.tools[0].name == "weather"
    c.send("response.create", response={"tool_choice": "required"})
    r = c.state.response.id
    assert c.state.response.tools == (tool,) and c.state.response.tool_choice == "required"
    events = c.say(p.Spoke(r, b"\0\0", 10, "Wait.")) + c.say(p.Called(r, "call_1", "weather", "{}"))
    events += c.say(p.Answered(r))
    output = events[-1]["response"]["output"]
    assert [o["type"] for o in output] == ["message", "function_call"]
    assert [e["output_index"] for e in events if "arguments.done" in e["type"]] == [1]
    assert len(RULES.messages(c.state)) == 2  # without a result it is not told
    result = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
    c.send("conversation.item.create", item=result)
    *_, call, told = RULES.messages(c.state)
    assert call["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
    assert told == {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


def test_an_agent_without_functions_takes_no_tools():
    rules = Protocol(replace(OFFER, tools=False))
    _, state = rules.init_state("x")
    tools = [{"type": "function", "name": "f"}]
    event = {"type": "session.update", "session": {"type": "realtime", "tools": tools}}
    (event,), _ = rules.step(p.Client(event), state)
    assert event["error"]["code"] == "unsupported_value"


def test_a_recording_can_be_an_item():
    c = Connection()
    clip = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": SOUND}]}
    c.send("conversation.item.create", item=clip)
    heard = c.commands[-1]
    assert isinstance(heard, p.HearClip) and heard.pcm.shape == (2400,)
    c.send("response.create")
    assert not isinstance(c.commands[-1], p.Answer)
    c.say(p.Unheard(heard.item, "noise"))
    assert isinstance(c.commands[-1], p.Answer)


@pytest.mark.parametrize("form", ["audio/pcm", "audio/pcmu", "audio/pcma"])
def test_formats(form):
    c = Connection()
    c.input(format={"type": form}, turn_detection=None)
    c.send("input_audio_buffer.append", audio=SOUND)
    pcm = c.commands[-1].pcm
    assert pcm.dtype == np.float32 and len(pcm) == (2400 if form == "audio/pcm" else 4800)
    refused = c.input(format={"type": "audio/pcm", "rate": 16_000})
    assert "commit or clear" in error(refused)["message"]
    assert kinds(c.send("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert kinds(c.input(turn_detection={"type": "semantic_vad"})) == ["session.updated"]


@pytest.mark.parametrize(
    ("event", "param"),
    [
        ([], None),
        ({}, "type"),
        ({"type": "input_audio_buffer.paint"}, "type"),
        ({"type": ["x"]}, "type"),
        ({"type": "input_audio_buffer.append"}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "%%%"}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "AAA="[:4].replace("=", "é")}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "AA=="}, "audio"),  # one byte
        ({"type": "input_audio_buffer.commit"}, None),
        ({"type": "session.update"}, "session"),
        ({"type": "session.update", "session": {"type": "x"}}, "session.type"),
        ({"type": "session.update", "session": {"modalities": []}}, "session.modalities"),
        ({"type": "session.update", "session": {"audio": {"input": {"format": {"type": "mp3"}}}}},
         "session.audio.input.format.type"),
        ({"type": "session.update", "session": {"audio": {"output": {"voice": "nobody"}}}},
         "session.audio.output.voice"),
        ({"type": "session.update", "session": {"audio": {"output": {"speed": float("nan")}}}},
         "session.audio.output.speed"),
        ({"type": "session.update", "session": {"audio": {"input": {"transcription": {"language": "de"}}}}},
         "session.audio.input.transcription.language"),
        ({"type": "session.update", "session": {"audio": {"input": {"turn_detection": {
            "type": "server_vad", "threshold": 2}}}}}, "session.audio.input.turn_detection.threshold"),
        ({"type": "session.update", "session": {"tools": [{"type": "function"}]}}, "session.tools[0].name"),
        ({"type": "session.update", "session": {"tool_choice": "perhaps"}}, "session.tool_choice"),
        ({"type": "conversation.item.create", "item": {"type": "message", "role": "user"}}, "item.content"),
        ({"type": "conversation.item.truncate", "item_id": "x"}, "item_id"),
        ({"type": "response.create", "response": {"output_modalities": ["text", "audio"]}},
         "response.output_modalities"),
        ({"type": "response.create", "response": {"x": 1}}, "response.x"),
    ],
)  # fmt: skip
def test_mistakes_give_one_error_that_names_the_culprit(event, param):
    c = Connection()
    before = c.state
    named = event | {"event_id": "mine"} if isinstance(event, dict) else event
    found = error(c.say(p.Client(named)))
    assert found["param"] == param and found["message"] and found["code"]
    assert found["event_id"] == ("mine" if isinstance(event, dict) else None)
    assert replace(c.state, count=before.count) == before


def test_delays_and_turns_become_rules():
    session = opening(OFFER, transcription=True)
    assert session.latency_ms == 320
    heard = {"transcription": {"delay": "xhigh", "keywords": ["Dashwood"]}, "turn_detection": {
        "type": "server_vad", "threshold": 0.6, "prefix_padding_ms": 200, "silence_duration_ms": 700}}  # fmt: skip
    session = updated(session, {"type": "transcription", "audio": {"input": heard}}, OFFER)
    rules = session.rules()
    assert session.latency_ms == 1280 and session.transcription.keywords == ("Dashwood",)
    assert (rules.onset, rules.before_s, rules.silence_s) == (0.6, 0.2, 0.7)
    talk = opening(OFFER)
    assert talk.automatic and talk.conversation().short_s == talk.conversation().long_s == 0.5
    kinds = [{"type": "semantic_vad", "eagerness": e} for e in ("low", "high")]
    low, high = (
        updated(talk, {"audio": {"input": {"turn_detection": k}}}, OFFER).conversation()
        for k in kinds
    )
    assert low.short_s > high.short_s and low.longest_pause_s == 8.0


# Whatever clients send, in whatever order the world answers.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
vad = st.sampled_from(
    [None, {"type": "server_vad"}, {"type": "semantic_vad", "eagerness": "high"},
     {"type": "server_vad", "create_response": False}, {"type": "nonsense"}]
)  # fmt: skip
formats = st.sampled_from([{"type": t} for t in ("audio/pcm", "audio/pcmu", "audio/pcma", "x")])
transcription = st.sampled_from(
    [None, {"model": "whisper-1"}, {"delay": "low", "language": "en"}, 3]
)
session = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["realtime", "realtime", "transcription"]),
        "instructions": st.text(max_size=5),
        "output_modalities": st.sampled_from([["text"], ["audio"], []]),
        "audio": st.fixed_dictionaries(
            {},
            optional={
                "input": st.fixed_dictionaries(
                    {},
                    optional={
                        "turn_detection": vad,
                        "format": formats,
                        "transcription": transcription,
                    },
                ),
                "output": st.fixed_dictionaries(
                    {},
                    optional={"format": formats, "voice": st.sampled_from(["alloy", "marin", "?"])},
                ),
            },
        ),
    },
)
ids = st.integers(0, 30).map(lambda n: n)  # one of the items that there are, by its place
items = st.one_of(
    st.text(max_size=5).map(user),
    st.just(
        {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": SOUND}]}
    ),
    st.just({"type": "function_call_output", "call_id": "c", "output": "4"}),
    st.just({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}),
    json_values,
)
client = st.one_of(
    st.tuples(st.just("session.update"), st.fixed_dictionaries({"session": session})),
    st.tuples(
        st.just("input_audio_buffer.append"),
        st.fixed_dictionaries({"audio": st.sampled_from([SOUND, SOUND, "AAA=", "AA==", "%"])}),
    ),
    st.tuples(
        st.sampled_from(
            ["input_audio_buffer.commit", "input_audio_buffer.clear", "output_audio_buffer.clear",
             "response.create", "response.create", "response.cancel"]
        ),
        st.just({}),
    ),
    st.tuples(st.just("conversation.item.create"), st.fixed_dictionaries({"item": items})),
    st.tuples(
        st.sampled_from(["conversation.item.delete", "conversation.item.retrieve"]),
        st.fixed_dictionaries({"item_id": ids}),
    ),
    st.tuples(
        st.just("conversation.item.truncate"),
        st.fixed_dictionaries(
            {"item_id": ids, "content_index": st.just(0), "audio_end_ms": st.integers(-1, 2000)}
        ),
    ),
    st.tuples(
        st.just("response.create"),
        st.fixed_dictionaries(
            {"response": st.fixed_dictionaries({}, optional={
                "conversation": st.sampled_from(["auto", "none"]), "input": st.lists(items, max_size=2),
                "output_modalities": st.sampled_from([["text"], ["audio"]]), "metadata": json_values})}
        ),
    ),
    st.tuples(st.text(max_size=10), json_values.map(lambda v: {"x": v})),
)  # fmt: skip
world = st.sampled_from(
    ["call", "began", "ended", "words", "heard", "unheard", "go", "more", "all", "broke", "stop"]
)


def happening(kind, state, n):
    """What the driver may say now."""
    r = state.response.id if state.response else "resp_old"
    owed = state.owed[n % len(state.owed)] if state.owed else ("item_old", "")
    turn = state.turn.said if state.turn else ""
    spoken = state.response is None or state.response.modality == "audio"
    word = SpokenWord(0, 100, 0, 2)
    return {
        "began": p.TurnBegan(n),
        "ended": p.TurnEnded(n, turn),
        "words": p.Words(turn + " go"),
        "heard": p.Transcribed(owed[0], owed[1] + ".", 1.0),
        "unheard": p.Unheard(owed[0], "noise"),
        "go": p.Answering(),
        "more": p.Spoke(r, b"\0\0", 200, "Hi ", (word,)) if spoken else p.Wrote(r, "Hi "),
        "call": p.Called(r, f"call_{n}", "f", "{}"),
        "all": p.Answered(r),
        "broke": p.Broke(r, "it broke"),
        "stop": p.Interrupted(r if n % 2 else state.last or "", n * 10),
    }[kind]


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(client | world, st.integers(0, 30)), max_size=40), st.booleans())
def test_nothing_a_client_sends_breaks_it(events, transcribing):
    c = Connection(transcribing)
    for event, n in events:
        if isinstance(event, str):
            c.say(happening(event, c.state, n))
            continue
        kind, fields = event
        if "item_id" in fields and c.state.items:
            fields = fields | {"item_id": c.state.items[fields["item_id"] % len(c.state.items)].id}
        out = c.send(kind, **fields)
        if "error" in kinds(out):
            assert len(out) == 1
    if c.state.response is not None:  # what is open can be closed
        c.send("response.cancel")
        if c.state.response is not None:  # within a transcription session it cannot be
            c.say(p.Answered(c.state.response.id))
    assert set(c.ledger.created) == set(c.ledger.done)
    assert not c.ledger.opened
