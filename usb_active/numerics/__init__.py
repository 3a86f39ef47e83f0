"""Arrays in, arrays out: what several methods compute with. Knows nothing of runs, plugins or semilearn."""
