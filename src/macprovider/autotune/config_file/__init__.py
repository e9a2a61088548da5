"""The settings file that `--apply` edits, line by line."""
