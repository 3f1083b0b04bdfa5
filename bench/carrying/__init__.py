"""Packs: finished cells, sets, checkpoints and teachers carried between machines. No torch."""
