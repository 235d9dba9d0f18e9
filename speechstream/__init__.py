"""speechstream: speech recognition and synthesis while the sound is still coming."""
