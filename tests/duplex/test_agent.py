"""Agents, the endpoint's client against a real HTTP server in a thread."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from speechstream.duplex.agent import ChatCompletions, EchoBot, RuleBot
from speechstream.errors import SpeechStreamError

USER = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}]


def chunk(text, **choice):
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}, **choice}]}).encode()


GOOD = [b": comment", chunk("Good "), b"", chunk("day."), chunk("", finish_reason="stop"),
        b'data: {"choices": [], "usage": {}}', b"data: [DONE]"]  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.path, self.headers.get("Authorization"), body))
        script = server.script
        if callable(script):
            return script(self)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for line in script:
            self.wfile.write(line + b"\n\n")
            self.wfile.flush()
        self.close_connection = True
        return None

    def log_message(self, *a):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.seen, made.script, made.free = [], GOOD, threading.Event()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.free.set()
    made.shutdown()
    thread.join()
    made.server_close()


def client(server, **options):
    options = {"key": "", "read_s": 5.0} | options
    return ChatCompletions(f"http://127.0.0.1:{server.server_port}/v1/", "m", **options)


def test_pieces_come_as_they_were_sent(server):
    assert list(client(server, key="k", options={"temperature": 0.5})(USER)) == ["Good ", "day."]
    path, authorization, body = server.seen[0]
    assert path == "/v1/chat/completions" and authorization == "Bearer k"
    assert body == {"messages": USER, "stream": True, "model": "m", "temperature": 0.5}


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    list(client(server, key=None)(USER))
    assert server.seen[0][1] == "Bearer secret"


def test_a_whole_answer_in_json(server):
    def script(h):
        data = json.dumps({"choices": [{"message": {"content": "At once."}}]}).encode()
        h.send_response(200)
        h.send_header("Content-Type", "application/json")
        h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        h.wfile.write(data)

    server.script = script
    assert list(client(server)(USER)) == ["At once."]


@pytest.mark.parametrize(
    "status, header, said",
    [
        (401, "", "refused the key"),
        (404, "", "no such model"),
        (429, "7", "asks to wait 7 s"),
        (500, "", "HTTP 500"),
        (302, "", "HTTP 302"),
    ],
)
def test_a_refusal_is_one_sentence(server, status, header, said):
    def script(h):
        data = b'{"error": {"message": "no\\nway"}}'
        h.send_response(status)
        if header:
            h.send_header("Retry-After", header)
        h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        h.wfile.write(data)

    server.script = script
    with pytest.raises(SpeechStreamError, match=said) as error:
        list(client(server)(USER))
    assert "no way" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "lines, said",
    [
        (GOOD[:2], "broke off"),
        ([chunk("Good "), b"data: {nonsense"], "no JSON"),
        ([b'data: {"error": {"message": "overloaded"}}'], "overloaded"),
        ([b'data: {"other": 1}'], "does not speak chat completions"),
        ([b"data: [1]"], "does not speak chat completions"),
        ([b"data: " + b"x" * (1 << 20)], "without end"),
        ([], "broke off"),
    ],
)
def test_a_bad_stream_keeps_what_came(server, lines, said):
    server.script = lines
    got = []
    with pytest.raises(SpeechStreamError, match=said):
        for piece in client(server)(USER):
            got.append(piece)
    assert got == (["Good "] if lines and lines[0].startswith((b'data: {"ch', b": c")) else [])


def test_a_stall_ends_in_a_sentence(server):
    server.script = lambda h: server.free.wait(10)
    with pytest.raises(SpeechStreamError, match="silent for too long"):
        list(client(server, read_s=0.2)(USER))


def test_a_cancel_closes_the_connection(server):
    gone = threading.Event()

    def script(h):
        h.send_response(200)
        h.send_header("Content-Type", "text/event-stream")
        h.end_headers()
        try:
            while not server.free.is_set():
                h.wfile.write(chunk("more ") + b"\n\n")
                h.wfile.flush()
                time.sleep(0.01)
        except OSError:
            gone.set()

    server.script = script
    request = client(server)(USER)
    pieces = iter(request)
    assert next(pieces) == "more "
    request.close()
    assert len(list(pieces)) < 1000  # the end, and no error
    assert gone.wait(5)


def test_nobody_there():
    with pytest.raises(SpeechStreamError, match="nobody answers at 127.0.0.1:9"):
        list(ChatCompletions("http://127.0.0.1:9/v1", key="")(USER))


@pytest.mark.parametrize(
    "url", ["localhost:80", "ftp://x/v1", "http://", "http://a:b/", "http://u:p@h/v1"]
)
def test_what_is_no_address(url):
    with pytest.raises(ValueError):
        ChatCompletions(url, key="")


def test_bots():
    assert "".join(EchoBot()(USER)) == "You said: Hello there"
    assert "".join(RuleBot()(USER)).startswith("Hello!")
    assert (
        "".join(RuleBot()([{"role": "user", "content": "Blue cheese"}])) == "You said: Blue cheese"
    )
