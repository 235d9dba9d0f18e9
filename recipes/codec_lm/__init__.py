"""A language model over a codec's codes that speaks, taught by the block-wise voice."""
