"""Memory faults in a KV cache: what finds them, what repairs them, at which cost."""
