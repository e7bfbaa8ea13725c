"""Benchmarks: each measures its ceiling in the same run and reports the ratio. `python -m benchmarks.<name>` runs one."""
