"""The command line and the Python API with the embedded model, on real speech."""

import json
import re
import shutil
import subprocess

import pytest
import soundfile as sf

import speechstream
from speechstream import bundle


@pytest.fixture(scope="module")
def transcripts(fixtures_dir):
    return {
        t["file"]: t["text"] for t in json.loads((fixtures_dir / "transcripts.json").read_text())
    }


def plain(text):
    """Words in lower case, as in transcripts.json."""
    text = text.lower().replace("mr.", "mister").replace("mrs.", "missis")
    return re.sub(r"[^a-z' ]", "", re.sub(r"[\s-]", " ", text)).split()


def errors(reference, heard):
    """Word errors by edit distance, and how many words the reference has."""
    reference, heard = plain(reference), plain(heard)
    row = list(range(len(heard) + 1))
    for i, word in enumerate(reference):
        previous, row[0] = row[0], i + 1
        for j, other in enumerate(heard):
            previous, row[j + 1] = (
                row[j + 1],
                min(row[j] + 1, row[j + 1] + 1, previous + (word != other)),
            )
    return row[-1], len(reference)


def rate(pairs):
    counted = [errors(*p) for p in pairs]
    return sum(e for e, _ in counted) / sum(n for _, n in counted)


@pytest.mark.parametrize(
    "options, worst",
    [([], 0.2), (["--latency", "320"], 0.25)],  # of 640 see tests/asr/test_recognizer.py
)
def test_files_are_transcribed(real_cli, model, fixtures_dir, transcripts, options, worst):
    done = real_cli(
        "transcribe", *(fixtures_dir / name for name in transcripts), "--format", "json", *options
    )
    assert (done.returncode, done.stderr) == (0, "")
    documents = json.loads(done.stdout)
    assert [d["file"] for d in documents] == [str(fixtures_dir / name) for name in transcripts]
    assert rate(zip(transcripts.values(), (d["text"] for d in documents))) <= worst, [
        d["text"] for d in documents
    ]
    for d in documents:
        times = [t for s in d["segments"] for w in s["words"] for t in (w["start"], w["end"])]
        assert times == sorted(times) and 0 <= times[0] and times[-1] <= d["duration"] + 0.1


def test_a_pipe_says_what_the_file_says_and_python_too(real_cli, model, fixtures_dir, embedded_asr):
    path = fixtures_dir / "austen_0880.flac"
    file = real_cli("transcribe", path, "--latency", "320").stdout
    pipe = real_cli("transcribe", "-", data=path.read_bytes()).stdout
    samples, sample_rate = sf.read(path, dtype="int16")
    raw = real_cli("transcribe", "-", "--raw", str(sample_rate), data=samples.tobytes()).stdout
    asr = embedded_asr
    api = asr.transcribe(path, latency_ms=320)
    assert file and file == pipe == raw == "".join(s.text + "\n" for s in api.segments)


def test_damaged_files_do_not_stop_the_others(real_cli, model, fixtures_dir, tmp_path):
    good = fixtures_dir / "austen_0890.flac"
    (tmp_path / "cut.flac").write_bytes(good.read_bytes()[:20000])
    (tmp_path / "text.wav").write_text("not a recording")
    done = real_cli("transcribe", "cut.flac", good, "text.wav", ".", good, "-f", "json")
    assert (
        done.returncode == 2
        and len(done.stderr.splitlines()) == 3
        and "Traceback" not in done.stderr
    )
    texts = [d["text"] for d in json.loads(done.stdout) if d["file"] == str(good)]
    assert len(texts) == 2 and texts[0] and texts[0] == texts[1]


def test_a_bundle_with_one_byte_flipped_is_refused(real_cli, model, fixtures_dir, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).symlink_to(path)
    whole = real_cli("transcribe", fixtures_dir / "austen_0880.flac", "--model", copy)
    assert whole.returncode == 0 and whole.stdout
    smallest = min(bundle.load(copy).files.items(), key=lambda f: f[1])[0]
    (copy / smallest).unlink()
    data = bytearray((model / smallest).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / smallest).write_bytes(data)
    done = real_cli("transcribe", fixtures_dir / "austen_0880.flac", "--model", copy)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and f"{smallest} is not as its maker left it" in done.stderr


def test_info_tells_of_the_embedded_model(real_cli, model):
    done = real_cli("info")
    assert (done.returncode, done.stderr) == (0, "")
    card = bundle.load(model).card
    assert f"name: {card['name']}" in done.stdout and f"licence: {card['licence']}" in done.stdout


def test_the_installed_command():
    """The console script, where the package is installed."""
    program = shutil.which("speechstream")
    if program is None:
        pytest.skip("speechstream is not installed in this environment (pip install -e .)")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"speechstream {speechstream.__version__}\n")


@pytest.mark.parametrize("decoder", ["attention", "ctc"])
def test_no_encoding_of_the_system_changes_what_is_read(real_cli, fixtures_dir, decoder):
    """A model's files are UTF-8, whatever the locale; the strictest one knows ASCII alone."""
    sound = str(fixtures_dir / "austen_0880.flac")
    strict = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = ("transcribe", sound, "--decoder", decoder)
    plain = real_cli(*command)
    done = real_cli(*command, env={**real_cli.environment, **strict})
    assert (done.returncode, done.stdout, done.stderr) == (0, plain.stdout, "")
    assert plain.stdout.isascii() and len(plain.stdout.split()) > 4
