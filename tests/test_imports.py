"""The light floor stays light: what a user runs never imports torch, and importing the package imports nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import speechstream
from speechstream import audio

REPO = Path(__file__).parents[1]
WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "librosa", "onnx", "onnxscript", "soxr"):
            raise AssertionError(f"the light floor imported {name}")
sys.meta_path.insert(0, Refuse())
"""


def python(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + script, *map(str, arguments)],
        cwd=REPO,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_alone_imports_nothing_heavy():
    out = python("import speechstream\nprint(sorted(set(m.split('.')[0] for m in sys.modules)))")
    assert not {"numpy", "onnxruntime", "soundfile", "sounddevice", "rich"} & set(
        re.findall(r"'(\w+)'", out)
    )


def test_help_imports_nothing_heavy():
    script = """
from speechstream.cli import main
for arguments in (["--help"], ["transcribe", "--help"], ["--version"], ["devices", "--help"], ["info", "--help"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
heavy = {"numpy", "onnxruntime", "soundfile", "sounddevice", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    assert "transcribe" in python(script)


def test_every_public_name_is_there_without_torch():
    python(
        "import speechstream\nfor name in speechstream.__all__: assert getattr(speechstream, name) is not None"
    )
    assert set(speechstream.__all__) <= set(dir(speechstream))
    with pytest.raises(AttributeError, match="'Recogniser'"):
        _ = speechstream.Recogniser


@pytest.mark.parametrize("package", ["audio", "asr", "cli"])
def test_the_light_packages_import_without_torch(package):
    folder = REPO / "speechstream" / package
    names = [
        f"speechstream.{package}.{p.stem}" for p in folder.glob("*.py") if p.stem != "__init__"
    ]
    assert names
    python("import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *names)


def test_a_file_is_transcribed_without_torch(fixtures_dir):
    script = "from speechstream.cli import main\nsys.exit(main(['transcribe', sys.argv[1]]))"
    assert "leisure to consider how much" in python(script, fixtures_dir / "austen_0870.flac")


def test_editors_and_type_checkers_see_every_lazy_name():
    for package, homes in (
        ("speechstream", speechstream._HOMES),
        ("speechstream.audio", audio._HOMES),
    ):
        path = REPO.joinpath(*package.split("."), "__init__.py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        block = next(n for n in tree.body if isinstance(n, ast.If))
        assert isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        seen = {a.asname: f"{n.module}.{a.name}" for n in block.body for a in n.names}
        assert seen == {name: f"{package}.{home}.{name}" for name, home in homes.items()}
