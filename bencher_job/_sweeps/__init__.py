"""Sweeps and maps: many calls of one function."""
