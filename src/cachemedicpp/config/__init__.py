"""Run and sweep configurations: every key, the rules between keys, overrides, mixtures and presets."""
