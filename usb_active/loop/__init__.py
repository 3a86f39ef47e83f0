"""The active-learning loop: cycles of query, answers and training, and what each part of it keeps."""
