"""Whisper base made chunk-causal."""
