"""Providers that run on this machine already: found, drained, put back."""
