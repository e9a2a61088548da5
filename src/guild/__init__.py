"""The guild: keep a model in training, day and night, from a queue, a curriculum and a ledger. (specs/guild.md)

The rooms of the workbench are reached by their commands and their run directories, never by import.
"""
