"""--mode=report: one page on what a run learned, and where it fails."""
