"""A YAML as a checked configuration: USB's keys, the `active:` block, choices of plugins, and what a received one may do."""
