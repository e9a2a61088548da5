"""Sparring: a checkpoint's own wrong answers become correction rows. (specs/guild.md 6.4)

`session` asks and judges; `rows` turns wrong answers into rows; `running` holds a whole session, from the choice of the model (`asked`) to
the queued file (`files`) and `status`; `staleness` demotes rows of a checkpoint that training has left behind; `validator` checks files.
"""
