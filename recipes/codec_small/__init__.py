"""The small streaming codec of the embedded voice."""
