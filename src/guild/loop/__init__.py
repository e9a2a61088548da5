"""The daemon: keeps the queue fed, the trainer at work and the house in order, and survives all of them. (specs/guild.md 2.1.1)"""
