"""The lexicon of our own: text files, one word a line. `guild.skills.syllables.lexicon` tells the columns and how they were made."""
