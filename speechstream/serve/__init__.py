"""Serving many users: `app` is the server of `speechstream serve`, `ray` spreads streams and archives over a cluster."""
