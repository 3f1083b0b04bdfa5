"""The settings of each method with the authors' values, one file a method. Read while planning: no torch."""
