"""The training queue: payload files in folders that people may touch, their order and state in the database. (specs/guild.md 2.1.2, 3.3)"""
