"""Run the tests of quantised weights on processors that this machine is not, in qemu's user-mode emulation.

    python tools/emulate.py                              # x86 without VNNI: AVX2 (Haswell), SSE 4.1 (Nehalem)
    python tools/emulate.py haswell arm arm-dotprod      # and ARM, with and without products of four bytes at once
    python tools/emulate.py arm --folder /var/tmp/arm tests/export/test_quantize.py

On Debian: apt-get install qemu-user. The x86 ones run this Python and its packages. Those of ARM need another machine's:
Debian's Python and the wheels for it are fetched to --folder the first time (250 MB; apt-get and pip, nothing is
installed). A processor takes some twenty seconds. The exit status is 1 where a test fails, 2 where one could not run.

What is in onnxruntime's binary is emulated as it is, so that sums which saturate do so here too. numpy's own AVX2 code
is switched off: qemu 7.2 gets some of its reductions wrong, and the tests compare with numpy.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["tests/export/test_quantize.py"]
X86 = {"haswell": "Haswell", "nehalem": "Nehalem"}
BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
ARM = {  # qemu's name, and what /proc/cpuinfo says there: implementer 0x41, part, features
    "arm": ("cortex-a72", "0xd08", BASE),
    "arm-dotprod": ("max", "0xd0c", BASE + " atomics fphp asimdhp asimdrdm asimddp"),
}
DEBS = ["python3.11", "libstdc++6"]  # Debian 12's
WHEELS = ["numpy", "onnxruntime", "onnx", "pytest"]


def call(*command: str | Path) -> None:
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)


def fetch(folder: Path) -> None:
    """Debian's Python for ARM in `folder`/root and the packages that the tests need in `folder`/site."""
    lists, cache, wheels = folder / "lists", folder / "cache", folder / "wheels"
    for f in (lists / "partial", cache / "archives/partial", folder / "root", folder / "site"):
        f.mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    places = {"state::lists": lists, "Cache": cache, "state::status": folder / "status"}
    options = ["-qq", "-o", "APT::Architecture=arm64", "-o", "APT::Architectures=arm64"]
    for name, place in places.items():
        options += ["-o", f"Dir::{name}={place}"]
    call("apt-get", *options, "update")
    call(
        *("apt-get", *options, "install", "--yes", "--download-only", "--no-install-recommends"),
        *DEBS,
    )
    for deb in (cache / "archives").glob("*.deb"):
        call("dpkg-deb", "-x", deb, folder / "root")
    platforms = [f"--platform=manylinux{p}_aarch64" for p in ("2014", "_2_27", "_2_28")]
    here = [f"{n}=={version(n)}" for n in WHEELS]
    target = ["--python-version=3.11", "--only-binary=:all:", "-d", wheels]
    call(sys.executable, "-m", "pip", "download", "-qq", *platforms, *target, *here)
    for wheel in wheels.glob("*.whl"):
        shutil.unpack_archive(wheel, folder / "site", "zip")


def arm(name: str, folder: Path) -> tuple[list[str], str]:
    """The command that starts Python on an ARM processor, and its module path."""
    if not (folder / "site/onnxruntime").is_dir():
        fetch(folder)
    cpu, part, features = ARM[name]
    root = folder / "root"
    (root / "proc").mkdir(exist_ok=True)  # qemu 7.2 shows the host's, with which onnxruntime ends
    (root / "proc/cpuinfo").write_text(
        "".join(
            f"processor\t: {i}\nBogoMIPS\t: 100.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
            for i in range(os.cpu_count() or 1)
        )
    )
    python = root / "usr/bin/python3.11"
    command = ["qemu-aarch64", "-cpu", cpu, "-L", str(root), str(python)]
    return command, str(folder / "site")


def x86(name: str) -> tuple[list[str], str]:
    python = Path(sys.executable).resolve()
    return ["qemu-x86_64", "-cpu", X86[name], str(python)], sysconfig.get_path("purelib")


def run(name: str, tests: list[str], folder: Path) -> int | None:
    """The exit status of the tests on this processor; None where it cannot be emulated here."""
    needs = "qemu-x86_64" if name in X86 else "qemu-aarch64"
    reason = None
    if not shutil.which(needs):
        reason = f"{needs} is not installed"
    elif name in X86 and platform.machine() != "x86_64":
        reason = "this Python is not for x86"
    if reason:
        print(f"{name}: not run, {reason}")
        return None
    try:
        command, packages = x86(name) if name in X86 else arm(name, folder)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{name}: not run, its Python could not be fetched ({error})")
        return None
    environment = os.environ | {
        "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if name in ARM:
        del environment["NPY_DISABLE_CPU_FEATURES"]
    start = time.monotonic()
    done = subprocess.run(
        [*command, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
    )
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:], sep="\n")
    said = "passed" if not done.returncode else f"FAILED ({done.returncode})"
    print(f"{name}: {' '.join(tests)} {said}, {time.monotonic() - start:.0f} s", flush=True)
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", nargs="*", help=f"processors ({', '.join([*X86, *ARM])}) and files of tests"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path.home() / ".cache/speechstream-arm", help="for ARM"
    )
    a = parser.parse_args()
    names = [w for w in a.what if w in X86 or w in ARM] or list(X86)
    tests = [w for w in a.what if w not in names] or TESTS
    missing = [t for t in tests if not (ROOT / t).exists()]
    if missing:
        parser.error(f"neither a processor nor a file: {missing[0]}")
    codes = [run(name, tests, a.folder.resolve()) for name in names]
    if any(codes):
        return 1
    return 2 if None in codes else 0


if __name__ == "__main__":
    sys.exit(main())
