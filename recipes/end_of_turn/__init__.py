"""The end-of-turn head: see the README."""
