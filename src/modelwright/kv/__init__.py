"""Quantised KV caches: what to quantise and what it costs, the arithmetic, and a packed store that tokens are appended to."""
