"""Behind :mod:`bench.plan`: from a suite's text to its cells. No torch."""
