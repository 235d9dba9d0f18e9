"""JSON from strangers."""

import json

import httpx
import pytest
from serving import serving

from speechstream.serve.realtime.fields import Invalid
from speechstream.serve.realtime.reading import parsed
from speechstream.serve.sockets import parsed as message
from speechstream.serve.strict_json import loads


@pytest.mark.parametrize(
    "text", ['{"a": [1, -2.5e3, "\\u00e9", null, true]}', "[]", '"x"', "12345678901234567890"]
)
def test_values_are_those_of_json(text):
    assert loads(text) == json.loads(text) == loads(text.encode())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("9" * 5000, "a number may have 1000 digits, one has 5000"),
        ('{"a": [-%s]}' % ("9" * 4299), "a number may have 1000 digits, one has 4300"),
        ("NaN", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_what_cannot_be_used_gives_one_sentence(text, said):
    for reader in (loads, message, parsed):
        with pytest.raises(ValueError) as told:
            reader(text)
        assert str(told.value).endswith(said) and "Python" not in str(told.value)
    assert isinstance(told.value, Invalid)


def test_bodies_with_a_number_that_is_too_long_are_refused(embedded_asr, embedded_tts):
    body = b'{"input": "a", "session": %s}' % (b"9" * 5000)
    headers = {"Content-Type": "application/json"}
    with serving((embedded_asr, embedded_tts)) as served:
        for path in ("audio/speech", "realtime/client_secrets"):
            answer = httpx.post(f"{served.url}/v1/{path}", content=body, headers=headers)
            assert answer.status_code == 400
            assert "a number may have 1000 digits" in answer.json()["error"]["message"]
