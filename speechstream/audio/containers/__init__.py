"""Audio files by their container: how each is taken apart, and what its decoder passes over in silence."""
