"""A KV cache kept at 4, 3 and 2 bits: ways to quantise it, each alone and with a trained repair (family D) on top, at equal bytes."""
