"""The only rooms that import semilearn. Its ways (version 0.3.2) are worked round here and nowhere else."""

import warnings

with warnings.catch_warnings():
    # What USB's dependencies have deprecated among themselves is nothing that a user of ours could mend.
    warnings.simplefilter("ignore")
    import semilearn  # noqa: F401 — first of all imports of it, so that its warnings end here
