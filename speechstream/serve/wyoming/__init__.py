"""The Wyoming protocol of Home Assistant: `protocol` has the rules, `server` the sockets."""
