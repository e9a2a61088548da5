"""CacheMedic: damage and repair the KV caches of language models, and measure both."""
