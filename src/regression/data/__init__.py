"""The example's data: sources, tables, split, standardisation."""
