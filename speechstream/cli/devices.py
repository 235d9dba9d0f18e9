"""`speechstream devices`: what there is to listen to and to speak through."""

from __future__ import annotations

import argparse

from speechstream.cli import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The number, or a part of the name, chooses a device: speechstream transcribe --mic 3"
    )


def run(args: argparse.Namespace) -> int:
    from speechstream.audio.device import devices

    found = devices()
    if not found:
        tell("no sound device was found; connect one or start the sound server")
        return 0
    for title, count, default in (
        ("microphones", "inputs", "default_input"),
        ("loudspeakers", "outputs", "default_output"),
    ):
        print(f"{title} (* is the default)")
        chosen = [d for d in found if getattr(d, count)]
        for d in chosen:
            channels = getattr(d, count)
            print(
                f"{'*' if getattr(d, default) else ' '} {d.index:3}  {d.name}  ({d.host}, {channels} "
                f"{'channel' if channels == 1 else 'channels'}, {d.sample_rate} Hz)"
            )
        if not chosen:
            print("       none")
    return 0
