"""This machine: files, keys, clock, users, terminals, login records."""
