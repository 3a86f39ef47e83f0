"""The pool and what is done with its samples: labels, splits, batches in a resumable order, networks run over it, the view of a method."""
