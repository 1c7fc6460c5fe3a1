"""The config: schema, checks, one-line messages. Imports no torch."""
