"""Moshi as an agent that hears and speaks at once."""
