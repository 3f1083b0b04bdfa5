"""Behind :mod:`bench.check`: how a drop is found, and what moved."""
