"""Behind :mod:`bench.plots`: one file per kind of figure, in one style."""
