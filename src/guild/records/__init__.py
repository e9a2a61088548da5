"""What the guild knows: the database of jobs, events and evaluations, and the records that lie beside the artifacts."""
