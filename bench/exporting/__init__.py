"""Behind :mod:`bench.export`: the cards of what is exported."""
