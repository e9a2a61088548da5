"""Asking the guild to pause, resume, skip or stop, and saying what it does. (specs/guild.md 2.1.3, 4.1)"""
