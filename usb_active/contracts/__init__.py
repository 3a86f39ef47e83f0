"""What a plugin of each kind is: one file per kind, the base of all, and the registry that finds and checks them."""
