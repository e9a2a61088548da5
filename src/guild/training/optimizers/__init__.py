"""Optimizers by type: settings and group rules without torch, the factory with it. (specs/guild.md 2.2.2)"""
