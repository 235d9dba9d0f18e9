"""speechstream: speech recognition and synthesis while the sound is still coming.

    import speechstream as ss
    asr = ss.Recognizer.load()
    print(asr.transcribe("meeting.flac").text)

The public names are imported when they are first used; importing this package loads nothing else, and never torch.
"""

from typing import TYPE_CHECKING

from speechstream._lazy import attributes

# For editors and type checkers; at run time `_HOMES` says where a name lives.
if TYPE_CHECKING:
    from speechstream.asr.recognizer import Recognizer as Recognizer
    from speechstream.audio.device import (
        devices as devices,
        microphone as microphone,
    )
    from speechstream.audio.speaker import Speaker as Speaker
    from speechstream.bundle import Bundle as Bundle
    from speechstream.errors import SpeechStreamError as SpeechStreamError
    from speechstream.events import (
        Endpoint as Endpoint,
        Final as Final,
        Partial as Partial,
        SpeechStarted as SpeechStarted,
        Transcript as Transcript,
        Word as Word,
    )
    from speechstream.tts.synthesizer import Synthesizer as Synthesizer

__version__ = "0.1.0"

_HOMES = {
    "Recognizer": "asr.recognizer",
    "SpeechStarted": "events",
    "Partial": "events",
    "Final": "events",
    "Endpoint": "events",
    "Word": "events",
    "Transcript": "events",
    "Synthesizer": "tts.synthesizer",
    "microphone": "audio.device",
    "devices": "audio.device",
    "Speaker": "audio.speaker",
    "Bundle": "bundle",
    "SpeechStreamError": "errors",
}
__all__ = ["__version__", *sorted(_HOMES)]
if not TYPE_CHECKING:  # to a type checker a name that is not there is an error
    __getattr__, __dir__ = attributes(__name__, _HOMES)
