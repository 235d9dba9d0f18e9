"""Serving many users: `ray` spreads streams and archives over the processes and machines of a Ray cluster."""
