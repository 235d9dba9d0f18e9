"""The pronunciation lexicon and the letter-to-sound network."""
