"""Faults that a run directory must survive, made by real kills, real system calls that fail and real full disks."""
