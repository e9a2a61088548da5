"""The trainer: the process that holds the model and trains one file of the queue after the other. (specs/guild.md 2.1.4)

It is a process of its own, so that a daemon that dies takes no training with it. What happens to a model is `guild.training`'s business.
"""
