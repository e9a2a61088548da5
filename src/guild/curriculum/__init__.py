"""The curriculum: which level each skill trains at, and the new rows that it asks for. (specs/guild.md 2.4, 4.8, 6.3)

`rule` is arithmetic alone; `state` the document; `progress` brings both together; `schedule` chooses the skill; `sources` reaches its
problems; `quality` judges them; `generate` makes a file of them; `authority` is the only way to a generation.
"""
