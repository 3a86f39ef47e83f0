"""Image files: which there are, how they are read as pixels, and whether each can be."""
