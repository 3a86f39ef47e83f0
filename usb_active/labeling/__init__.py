"""Labels in a browser: a page on this machine alone, for one or several people."""
