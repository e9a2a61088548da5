"""Syllable puzzles (SY): rebuild words from clues and a bank of syllables. (specs/guild.md 6.2)"""
