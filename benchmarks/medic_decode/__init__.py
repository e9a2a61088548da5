"""What a repaired KV cache costs while decoding."""
