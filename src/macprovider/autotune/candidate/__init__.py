"""A candidate provider: a real `serve` child, its weights, its port, what it has and what it must not say."""
