"""The corruption grid: six defences, their scores, areas and paired intervals, and what each costs in decoding."""
