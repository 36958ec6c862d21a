"""Benchmarks: `python -m bench` measures this node next to its rivals and writes the table of bench/README.md."""
