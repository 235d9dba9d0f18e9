"""Everything that touches samples: blocks, files, pipes, devices, resampling, features and voice activity.

Names are imported when they are first used: `import speechstream.audio` loads neither PortAudio, libsndfile nor
onnxruntime.
"""

from speechstream._lazy import attributes

_HOMES = {
    "to_mono": "samples",
    "Resampler": "resample",
    "ResamplerState": "resample",
    "Blocks": "recording",
    "blocks": "io",
    "read": "io",
    "raw_blocks": "pcm",
    "stream_blocks": "stream",
    "Device": "device",
    "Microphone": "device",
    "devices": "device",
    "microphone": "device",
    "Speaker": "speaker",
    "Vad": "vad",
    "VadState": "vad",
    "LogMel": "features",
    "LogMelState": "features",
}
__all__ = sorted(_HOMES)
__getattr__, __dir__ = attributes(__name__, _HOMES)
