"""Where the data file of each job lies. (specs/guild.md 2.1.2)

A job's state and level say where its file belongs; this says where it was last put. The two differ while a move is under way, and after
a kill in the middle of one, which is how an interrupted move is told from a file that somebody moved by hand.
"""

from __future__ import annotations

SQL = """
CREATE TABLE queue_files (
    job INTEGER PRIMARY KEY REFERENCES jobs(id) ON DELETE CASCADE,
    place TEXT                            -- FOLDER/NAME below queue/; NULL when the file is gone
);
CREATE INDEX queue_files_there ON queue_files(place) WHERE place IS NOT NULL;
"""
