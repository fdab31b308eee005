"""Measurements: `python -m benchmarks.NAME [--media DIR] [--quick] [--json FILE]`."""
