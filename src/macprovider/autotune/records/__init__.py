"""What a run leaves behind: the database, the recommendation, its hash, and the words for people."""
