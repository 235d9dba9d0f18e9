"""Everything that touches samples: blocks, files, pipes, devices, resampling, features and voice activity.

Names are imported when they are first used: `import speechstream.audio` loads neither PortAudio, libsndfile nor
onnxruntime.
"""

from typing import TYPE_CHECKING

from speechstream._lazy import attributes

# For editors and type checkers; at run time `_HOMES` says where a name lives.
if TYPE_CHECKING:
    from speechstream.audio.device import (
        Device as Device,
        Microphone as Microphone,
        devices as devices,
        microphone as microphone,
    )
    from speechstream.audio.features import (
        LogMel as LogMel,
        LogMelState as LogMelState,
    )
    from speechstream.audio.io import (
        blocks as blocks,
        read as read,
    )
    from speechstream.audio.pcm import raw_blocks as raw_blocks
    from speechstream.audio.recording import Blocks as Blocks
    from speechstream.audio.resample import (
        Resampler as Resampler,
        ResamplerState as ResamplerState,
    )
    from speechstream.audio.samples import to_mono as to_mono
    from speechstream.audio.speaker import Speaker as Speaker
    from speechstream.audio.stream import (
        stream_blocks as stream_blocks,
    )
    from speechstream.audio.vad import (
        Vad as Vad,
        VadState as VadState,
    )

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
if not TYPE_CHECKING:  # to a type checker a name that is not there is an error
    __getattr__, __dir__ = attributes(__name__, _HOMES)
