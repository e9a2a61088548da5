"""The text, the reviews and the long-context tasks, as token ids with a record of their source."""
