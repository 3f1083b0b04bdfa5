"""The parts of the report (:mod:`bench.report`): its rows, where its cells stand, and what made them."""
