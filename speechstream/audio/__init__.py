"""Everything that touches samples: blocks, files, pipes, devices, resampling, features and voice activity.

Names are imported when they are first used: `import speechstream.audio` loads neither PortAudio, libsndfile nor
onnxruntime.
"""

from importlib import import_module

_HOMES = {
    "to_mono": "samples",
    "Resampler": "resample", "ResamplerState": "resample",
    "Blocks": "io", "blocks": "io", "read": "io",
    "raw_blocks": "stream", "stream_blocks": "stream",
    "Device": "device", "Microphone": "device", "devices": "device", "microphone": "device",
    "Speaker": "speaker",
    "Vad": "vad", "VadState": "vad",
    "LogMel": "features", "LogMelState": "features",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
