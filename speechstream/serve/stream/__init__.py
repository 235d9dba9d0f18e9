"""The server's own protocol, `WS /v1/stream`: `endpoint` has the route, `session` what a token stands for."""
