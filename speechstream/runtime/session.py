"""The one place that makes an onnxruntime session."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from speechstream.audio.vad import MODEL, Vad
from speechstream.errors import SpeechStreamError
from speechstream.runtime.memory import trim

DEVICES = ("cpu", "cuda", "meta")
# an ONNX graph: c = MatMulInteger(a uint8, b int8)
PRODUCT = (
    "CAg6YgoYCgFhCgFiEgFjIg1NYXRNdWxJbnRlZ2VyEgFnWhUKAWESEAoOCAISCgoDEgFtCgMSAWtaFQoBYhIQCg4IAxIKCgMS"
    "AWsKAxIBbmIVCgFjEhAKDggGEgoKAxIBbQoDEgFuQgQKABAN"
)
EXACT = b"speechstream exact"  # the producer of graphs whose sums no processor saturates


def open_session(
    model: str | os.PathLike[str] | bytes,
    threads: int = 1,
    device: str = "cpu",
    disabled_optimizers: Sequence[str] = (),
) -> Any:
    """Open an ONNX file, or the bytes of one: `threads` for one computation, no spinning.

    disabled_optimizers: those of onnxruntime's rewritings that this graph must not have. Of the device "meta" only a
    `Signature` is kept. Raises ValueError for a wrong number of threads or an unknown device, SpeechStreamError where
    the graph is damaged, or the device is not to be had.
    """
    import onnxruntime as ort

    if type(threads) is not int or threads < 1:
        raise ValueError(f"threads must be 1 or more, got {threads!r}")
    name, number = check_device(device)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # two spinners burn half a core for nothing
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # older releases abort on shared weights
    recent = tuple(int(n) for n in ort.__version__.split(".")[:2]) >= (1, 24)
    if recent and not _is_exact(model) and saturates():
        # int8 weights are read as uint8, which is exact everywhere but slower, and takes more memory
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 4  # what goes wrong is raised too
    providers: list[Any] = ["CPUExecutionProvider"]
    if name == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(number or 0)}))
    if name == "meta":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    path = model if isinstance(model, bytes) else os.fspath(model)
    try:
        session = ort.InferenceSession(
            path, options, providers=providers, disabled_optimizers=list(disabled_optimizers)
        )
        trim()
        return Signature(session) if name == "meta" else session
    except Exception as error:  # onnxruntime raises a dozen kinds, none of them its own base class
        what = "these bytes are" if isinstance(path, bytes) else f"{path} is"
        raise SpeechStreamError(
            f"{what} not a usable ONNX graph: {str(error).splitlines()[0][:200]}"
        ) from error


@lru_cache(maxsize=1)
def giving_back() -> Any:
    """Options of one run, after which onnxruntime gives what it has used for it back to the system.

    For runs that take far more than the usual ones: its arena keeps what the longest has needed, and grows further where
    lengths differ.
    """
    import onnxruntime as ort

    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def check_device(device: str) -> tuple[str, str]:
    """A device's name and number ("" where it has none). Raises ValueError and SpeechStreamError as `open_session`."""
    import onnxruntime as ort

    name, _, number = device.partition(":")
    if name not in DEVICES or (number and not number.isdecimal()):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if name == "cuda" and "CUDAExecutionProvider" not in ort.get_available_providers():
        raise SpeechStreamError(
            f"device {device!r} needs onnxruntime-gpu: pip uninstall onnxruntime, then "
            "pip install speechstream[gpu]"
        )
    return name, number


@dataclass(frozen=True)
class Value:
    """What goes in or out of a graph, as onnxruntime's NodeArg has it, which would keep its session alive."""

    name: str
    shape: list[Any]
    type: str


class Signature:
    """What a session says of its graph, without the weights: for a process that runs nothing ("meta", as torch has it)."""

    def __init__(self, session: Any):
        self._inputs = [Value(v.name, list(v.shape), v.type) for v in session.get_inputs()]
        self._outputs = [Value(v.name, list(v.shape), v.type) for v in session.get_outputs()]
        self.custom_metadata_map = dict(session.get_modelmeta().custom_metadata_map)

    def get_inputs(self) -> list[Value]:
        return self._inputs

    def get_outputs(self) -> list[Value]:
        return self._outputs

    def get_modelmeta(self) -> Signature:
        return self

    def run(self, *_: Any, **__: Any) -> Any:
        raise SpeechStreamError("this model was opened without its weights, to be described only")


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether this processor's products of uint8 with int8 stop at 16 bits: x86 without VNNI. Tried, not looked up."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    product = ort.InferenceSession(base64.b64decode(PRODUCT), options, ["CPUExecutionProvider"])
    a, b = np.full((1, 64), 255, np.uint8), np.full((64, 32), 127, np.int8)
    return bool((product.run(None, {"a": a, "b": b})[0] != 255 * 127 * 64).any())


def _is_exact(model: str | os.PathLike[str] | bytes) -> bool:
    """Whether a graph's first field says that its 8-bit sums fit into 16 bits (`export.quantize.PRODUCER`)."""
    if isinstance(model, bytes):
        return EXACT in model[:64]
    try:
        with open(model, "rb") as f:
            return EXACT in f.read(64)
    except OSError:  # said when the session is made
        return False


@lru_cache(maxsize=1)
def load_vad() -> Vad:
    """The voice activity detector, once for the process: it has no state and serves all threads."""
    return Vad(open_session(MODEL))
