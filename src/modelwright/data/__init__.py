"""Dataset references, record shapes, tokenising and packing."""
