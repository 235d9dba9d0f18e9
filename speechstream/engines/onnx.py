"""The onnxruntime engine: one session a graph, one thread by default, no spinning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from speechstream.engines.protocol import Decoded, DecoderState, Encoded, EncoderState, Joint
from speechstream.errors import SpeechStreamError

# The decoder's past is padded on the left to a multiple of this many rows. onnxruntime sums a softmax in blocks of 64:
# with the padding every row is summed alike whatever it shares a batch with, so a stream in a batch equals the stream
# alone to the bit (a difference in the last place would be magnified by the rounding of activations to eight bits).
PAST_ROWS = 64


def session(path: str | Path, threads: int = 1, device: str = "cpu"):
    """Open an ONNX file. Raises SpeechStreamError where it is damaged, or where the device is not to be had."""
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # two spinners burn half a core for nothing
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if device != "cpu":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise SpeechStreamError(f"device {device!r} needs onnxruntime-gpu: pip uninstall onnxruntime, then "
                                    "pip install speechstream[gpu]")
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime raises a dozen kinds, none of them its own base class
        raise SpeechStreamError(f"{path} is not a usable ONNX graph: {str(error).splitlines()[0][:200]}") from error


class OnnxEngine:
    """`encoder.onnx` and `decoder.onnx` of a bundle."""

    name = "onnx"

    def __init__(self, folder: str | Path, threads: int = 1, device: str = "cpu"):
        self.encoder = session(Path(folder) / "encoder.onnx", threads, device)
        self.decoder = session(Path(folder) / "decoder.onnx", threads, device)
        self.joint = _joint(Path(folder) / "model.safetensors")
        self._encoder_like = _zeros(self.encoder, EncoderState)
        self._decoder_like = _zeros(self.decoder, DecoderState)

    def encoder_state(self, batch: int = 1) -> EncoderState:
        return EncoderState(**{n: np.repeat(a, batch, 0) for n, a in self._encoder_like.items()})

    def encode(self, mel: np.ndarray, state: EncoderState) -> tuple[Encoded, EncoderState]:
        """The cache is a ring that is written in place: the state given must not be used again (copy it to keep it)."""
        *encoded, keys, values = self.encoder.run(
            None, {"mel": mel, "state.mel": state.mel, **_layers("state.keys", state.keys),
                   **_layers("state.values", state.values), "state.frames": state.frames})
        L, c = state.keys.shape[3], keys.shape[3]
        n = min(c, L)
        for b, frames in enumerate(state.frames.tolist()):  # filled from the right: a young stream's first rows are empty
            rows = L - 1 - np.arange(frames + c - n, frames + c) % L
            state.keys[b, :, :, rows] = np.moveaxis(keys[b, :, :, c - n:], 2, 0)
            state.values[b, :, :, rows] = np.moveaxis(values[b, :, :, c - n:], 2, 0)
        history = np.concatenate([state.mel, mel[:, :, :-1]], axis=2)[:, :, -2:]
        return Encoded(*encoded), EncoderState(history, state.keys, state.values, state.frames + c)

    def decoder_state(self, batch: int = 1) -> DecoderState:
        return DecoderState(**{n: np.repeat(a, batch, 0) for n, a in self._decoder_like.items()})

    def decode(self, tokens, keys, values, mask, state):
        pad = -state.keys.shape[3] % PAST_ROWS
        *said, keys, values, read = self.decoder.run(
            None, {"tokens": tokens, **_layers("memory_keys", keys), **_layers("memory_values", values), "mask": mask,
                   "state.keys": _padded(state.keys, pad), "state.values": _padded(state.values, pad),
                   "state.tokens": state.tokens})
        return Decoded(*said), DecoderState(keys[:, :, :, pad:], values[:, :, :, pad:], read)


def _joint(path: Path) -> Joint | None:
    """The gate's last layers from a bundle's weights; None where it has no gate."""
    if not path.is_file():
        return None
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(size))
        if "gate.out.weight" not in header:
            return None
        arrays = []
        for name in ("gate.looked.weight", "gate.out.weight", "gate.out.bias"):
            begin, end = header[name]["data_offsets"]
            f.seek(8 + size + begin)
            arrays.append(np.frombuffer(f.read(end - begin), np.float32).reshape(header[name]["shape"]))
    return Joint(arrays[0].T, arrays[1][0], float(arrays[2][0]))


def _layers(name: str, a: np.ndarray) -> dict[str, np.ndarray]:
    """(B, layers, ...) as one input for each layer; of a single stream they are views, which onnxruntime reads in place."""
    return {f"{name}.{i}": a[:, i] for i in range(a.shape[1])}


def _padded(a: np.ndarray, rows: int) -> np.ndarray:
    """The past (B, layers, H, S, Dh) with so many rows of zeros before it."""
    out = np.zeros((*a.shape[:3], rows + a.shape[3], a.shape[4]), a.dtype)
    out[:, :, :, rows:] = a
    return out


def _zeros(graph, kind) -> dict[str, np.ndarray]:
    """An empty state for one stream, its shapes read from the graph; dynamic lengths start at zero."""
    shapes = {i.name: i for i in graph.get_inputs()}
    out = {}
    for name in kind.__dataclass_fields__:
        layers = sum(n.startswith(f"state.{name}.") for n in shapes)
        node = shapes.get(f"state.{name}.0" if layers else f"state.{name}")
        if node is None:
            raise SpeechStreamError(f"the graph has no input 'state.{name}': it was exported for another runner")
        shape = [n if isinstance(n, int) else 0 for n in node.shape[1:]]
        shape = [1, layers, *shape] if layers else [1, *shape]
        out[name] = np.zeros(shape, np.int64 if "int64" in node.type else np.float32)
    return out
