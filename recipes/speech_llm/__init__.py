"""The speech LLM with a transducer branch: see README.md."""
