"""A spoken conversation: a pure state machine (`conversation`), its agent, and the shell that joins them with sound."""
