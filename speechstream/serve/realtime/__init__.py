"""OpenAI's Realtime API: `endpoint` has the routes, `protocol` the rules, `talk` and its parts the work."""
