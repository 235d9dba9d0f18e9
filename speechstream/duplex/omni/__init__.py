"""Thinker-talker models as an agent that hears and speaks."""
