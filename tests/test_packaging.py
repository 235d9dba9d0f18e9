"""What would be installed: one top-level name, every folder of it, and everything it needs beside its modules."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import speechstream

REPO = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, str]:
    """The packages that setuptools would install, with their folders; found without building or network."""
    pytest.importorskip("setuptools", "77")
    code = (
        "import os, sys\n"
        "from setuptools import Distribution\n"
        "from distutils.core import run_setup\n"
        "d = run_setup('setup.py', stop_after='config')\n"
        "d.parse_config_files()\n"
        "build = d.get_command_obj('build_py'); build.ensure_finalized()\n"
        "for p in d.packages: print(p, build.get_package_dir(p))\n"
        "print('VERSION', d.metadata.version)\n"
        "print('DATA', *d.package_data['speechstream'])\n"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=REPO, text=True, capture_output=True
    )
    assert out.returncode == 0, out.stderr
    return dict(line.split(" ", 1) for line in out.stdout.splitlines())


def test_the_wheel_has_one_top_level_name(packages):
    names = set(packages) - {"VERSION", "DATA"}
    assert {name.split(".")[0] for name in names} == {"speechstream"}
    assert os.path.normpath(packages["speechstream.kernels"]) == "kernels"


def test_every_folder_of_modules_is_installed(packages):
    folders = {p.parent for p in (REPO / "speechstream").rglob("*.py")}
    without = [str(f) for f in folders if not (f / "__init__.py").exists()]
    assert not without, f"no __init__.py in {without}"
    expected = {".".join(f.relative_to(REPO).parts) for f in folders} | {"speechstream.kernels"}
    assert set(packages) - {"VERSION", "DATA"} == expected


def test_the_version_is_written_once(packages):
    assert packages["VERSION"] == speechstream.__version__
    assert '\nversion = "' not in (REPO / "pyproject.toml").read_text(encoding="utf-8")


def test_type_checkers_are_told(packages):
    assert "py.typed" in packages["DATA"].split() and (REPO / "speechstream/py.typed").exists()


def test_a_range_of_torch_for_users_and_one_for_developers():
    wanted = [r.replace(" ", "") for r in importlib.metadata.requires("speechstream") or []]
    torch = [r for r in wanted if r.startswith("torch")]
    assert any(r.startswith("torch>=") and "train" in r for r in torch), torch
    assert all("dev" in r for r in torch if "==" in r.split(";")[0]), torch
    assert any(r.startswith("safetensors>=") and "extra" not in r for r in wanted)
