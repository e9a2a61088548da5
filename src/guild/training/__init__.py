"""Training one file: its rows, its labels, its optimizer and its loop. (specs/guild.md 2.1.4, 2.2)

Profiles, chat template, masking limits and settings are importable without torch; the loop and what touches a model are not.
"""
