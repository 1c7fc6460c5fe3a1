"""Ranking, tables and figures over any runs."""
