"""Deepgram's live protocol: `options` reads a query, `protocol` has the rules, `endpoint` the route."""
