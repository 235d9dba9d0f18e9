"""`say` with Markdown, a dictionary, a rate, pauses, and --show, as a command."""

import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from speechstream.audio.resample import Resampler

VOICE = Path(__file__).parents[1] / "fixtures" / "tts" / "tiny-voice"
ANSWER = """\
<think>
The user wants a **short** answer.
</think>

# Sorting a list

You can use `sorted` for that. It is *stable*, and it costs $0 or $5:

1. Build the list.
2. Call **sorted** on it
   - it copies the list
   - [ ] check the order

```python
print(sorted([3, 1, 2]))  # never said
```

| Method | Speed |
|--------|-------|
| sorted | fast  |
| sort   | faster |

> The rule is simple.

See [the guide](https://docs.example.org/howto?x=1#top) or https://www.example.com/a/b.
Its cost is $n^2$ at most \U0001f389
"""
READ = """\
Sorting a list.
You can use sorted for that.
It is stable, and it costs zero dollars or five dollars:
one. Build the list.
two. Call sorted on it.
it copies the list.
To do: check the order.
Code block left out.
Method: sorted, Speed: fast.
Method: sort, Speed: faster.
The rule is simple.
See the guide or example dot com.
Its cost is N squared at most
"""


@pytest.fixture
def run(here):
    def say(*arguments, **options):
        return here("say", "--voice", VOICE, *arguments, **options)

    say.start = lambda *a, **o: here.start("say", "--voice", VOICE, *a, **o)
    return say


def tokens(text):
    """Pieces as a model gives them: words with the space before them, and marks."""
    import re

    return [t.encode() for t in re.findall(r" ?[^\W_]{1,4}|\s|.", text)]


@pytest.mark.parametrize("split", [tokens, lambda t: [bytes([b]) for b in t.encode()]])
def test_an_answer_is_read_as_a_person_would(run, split):
    process = run.start("--show", "words", stdin=subprocess.PIPE)
    for piece in split(ANSWER):
        process.stdin.write(piece)
        process.stdin.flush()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == b""
    assert out.decode() == READ


def test_lines_are_shown_while_the_text_comes(run):
    process = run.start("--show", "words", stdin=subprocess.PIPE)
    process.stdin.write(b"# First\nSecond")
    process.stdin.flush()
    assert process.stdout.readline() == b"First.\n"
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    "options, right",
    [
        ([], "a star"),  # in an argument, SSML and no Markdown
        (["--markdown"], "Code block left out."),
        (["--markdown", "--code", "skip"], "nothing to say"),
        (["--markdown", "--code", "say"], "X."),
    ],
)
def test_markdown_is_asked_for_in_an_argument(run, options, right):
    text = "```\nx\n```" if options else "*a* star"
    done = run("--show", "words", *options, text)
    assert right in (done.stdout + done.stderr)


def test_plain_reads_everything(run):
    shown = run("--show", "words", "--plain", data=b"see [a](http://b.co)").stdout
    assert "slash" in shown or "dot" in shown
    assert run("--show", "words", data=b"see [a](http://b.co)").stdout == "see a\n"


def test_a_dictionary(run, tmp_path):
    (tmp_path / "w.tsv").write_text("nginx\tengine x\nYoda\t/j\u02c8Od\u0259/\n", encoding="utf-8")
    done = run("--lexicon", tmp_path / "w.tsv", "--show", "words", "Nginx, said Yoda")
    assert done.stdout == "engine X, said Yoda\n"
    done = run("--lexicon", tmp_path / "w.tsv", "--show", "phonemes", "Yoda")
    assert done.stdout == "j\u02c8Od\u0259\n"


def test_each_line_of_an_error_names_the_program(run, tmp_path):
    (tmp_path / "w.tsv").write_text("Yoda\t/8/\nNginx\t/9/\n", encoding="utf-8")
    done = run("--lexicon", tmp_path / "w.tsv", "--show", "words", "Yoda")
    lines = done.stderr.splitlines()
    assert done.returncode and len(lines) > 1
    assert all(line.startswith("speechstream: ") for line in lines)


def test_a_rate_is_the_resampler_s(run, tmp_path):
    assert run("Hello there, you.", "-o", tmp_path / "a.wav").returncode == 0
    assert run("Hello there, you.", "-o", tmp_path / "b.wav", "--rate", "16000").returncode == 0
    voice, rate = sf.read(tmp_path / "a.wav", dtype="float32")
    ours, to = sf.read(tmp_path / "b.wav", dtype="float32")
    resampler = Resampler(rate, 16000)
    block, state = resampler.step(voice[None], resampler.init_state())
    whole = np.concatenate([block[0], resampler.finish(state)[0]])
    assert to == 16000 and len(ours) == len(whole)
    np.testing.assert_allclose(ours, whole, atol=2e-4)  # two times 16 bits


def test_pauses_are_scaled(run, tmp_path):
    text, seconds = 'One. <break time="1s"/> Two.', []
    for scale in ("0", "1", "2"):
        path = tmp_path / f"{scale}.wav"
        assert run(text, "--pause", scale, "-o", path).returncode == 0
        seconds.append(sf.info(path).duration)
    assert seconds[1] - seconds[0] > 0.95 and seconds[2] - seconds[1] > 0.95


def test_the_header_of_a_file_is_right_at_the_end(run, tmp_path):
    path = tmp_path / "a.wav"
    with path.open("wb") as out:
        process = run.start("-q", "-o", "-", "Hello there.", stdout=out)
        assert process.wait(60) == 0
    with wave.open(str(path)) as reader:  # which believes the header
        assert reader.getnframes() == (path.stat().st_size - 44) // 2 > 1000
    with path.open("ab") as out:  # what is appended to has another beginning
        before = path.read_bytes()
        assert run.start("-q", "-o", "-", "Hello there.", stdout=out).wait(60) == 0
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--rate", "7999"], "--rate goes from 8000 to 48000 Hz; got 7999"),
        (["--pause", "5"], "pause goes from 0 to 4; got 5.0"),
        (["--show", "words", "-o", "x.wav"], "--show makes no sound"),
        (["--lexicon", "none.tsv"], "the lexicon none.tsv cannot be read"),
        (["--plain", "--markdown"], "not allowed with"),
        (["--show", "letters"], "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run, arguments, message):
    done = run("Hello", *arguments)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_dates_and_capitals_are_read_as_asked(run):
    text = "Born on 03/04/2024, she reads SQL and GIF."
    asked = ("--date-order", "dmy", "--words", "AGILE,SQL", "--letters", "GIF")
    plain, chosen = (run("--show", "words", *o, text).stdout for o in ((), asked))
    assert "March fourth" in plain and "April third" in chosen
    sounds, others = (run("--show", "phonemes", *o, "SQL.").stdout for o in ((), asked))
    assert len(others) < len(sounds)  # one word is shorter than three letters
    sounds, others = (run("--show", "phonemes", *o, "GIF.").stdout for o in ((), asked))
    assert len(others) > len(sounds)
