"""Distillation of a repair from the clean pass, and the files that carry it across an interruption."""
