"""Retention of local checkpoints and snapshots: the one implementation. (specs/guild.md 2.8.4, G1; 10.2 no. 18, 22)

`rules` decides and touches nothing; `inventory` looks at what lies there; `references` tells what is in use; `apply` deletes.
"""
