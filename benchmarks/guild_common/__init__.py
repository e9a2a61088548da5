"""What the benchmarks of the guild share: houses to measure in, and their pages."""
