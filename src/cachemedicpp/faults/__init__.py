"""What damages a KV cache: the six corruption operators, where and how they strike, and the faults users really meet."""
