"""What the serving benchmarks share: a model of their own, prompts, clients in a process of their own, servers and their bills."""
