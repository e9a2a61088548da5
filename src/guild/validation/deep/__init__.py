"""DEEP: what can be wrong in rows that are well formed. One small pure function for each check. (specs/guild.md 5.2)"""
