"""A cache-aware FastConformer with CTC and transducer heads, from scratch."""
