"""The verbs of the command line, a file each or a few: what they take, one call, what they print."""
