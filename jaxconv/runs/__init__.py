"""What a run leaves behind and says: its files, its checkpoints, its lines; and how a signal ends it."""
