"""Behind :mod:`bench.tables`: kinds of tables, what is said of them, and their formats. No torch."""
