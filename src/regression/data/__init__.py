"""The example's data: sources, table, split, standardisation."""
