"""A node's one SQLite file: its log, its votes, its state and the state's history."""
