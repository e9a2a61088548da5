"""Long-context probes: what a probe is, the built-in ones, how they run, and the rule that keeps them apart from
training data.
"""
