"""What every command shares: one run directory, heartbeats, pause and resume, records and exit codes."""
