"""Where the committed results are, for tests of them: never what a run here left beside them."""

from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "results"
#: What the regression gate compares with: its sets are not committed.
REFERENCE = RESULTS / "reference"
#: The suites whose rows are committed, and those that only measures are committed of.
WITH_ROWS, MEASURED = (
    sorted(
        path.parent
        for path in RESULTS.glob(f"**/{name}.jsonl")
        if path.parent != RESULTS / "smoke"  # git ignores it: what `run smoke` makes
    )
    for name in ("rows", "measures")
)
FOLDERS = sorted({*WITH_ROWS, *MEASURED})
