"""Model files: fetched, listed, checked, converted."""
