"""What a run keeps on disk: files that survive a crash, the journal of labels, checkpoints, and checks of all that is read back."""
