"""Run many calls of one function: sweeps over grids, and maps."""
