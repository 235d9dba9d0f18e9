"""The block-wise acoustic model of the embedded voice."""
