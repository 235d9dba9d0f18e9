"""The command line of the tools that write one folder."""

import argparse


def folder(description: str | None) -> str:
    """The folder that the command line names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder")
    return str(parser.parse_args().folder)
