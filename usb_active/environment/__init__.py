"""What the process and its installation need before anything else: the guard around semilearn, its release, signals."""
