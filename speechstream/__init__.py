"""speechstream: speech recognition and synthesis while the sound is still coming.

    import speechstream as ss
    asr = ss.Recognizer.load()
    print(asr.transcribe("meeting.flac").text)

The public names are imported when they are first used; importing this package loads nothing else, and never torch.
"""

from speechstream._lazy import attributes

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
__getattr__, __dir__ = attributes(__name__, _HOMES)
