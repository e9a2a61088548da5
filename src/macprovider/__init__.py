"""Serve a model on this machine, and find the largest one, at the best knobs, that it can serve. (specs/autotune.md)"""
