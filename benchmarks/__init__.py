"""Side-by-side measurements against peers; each prints a table and, with --json, writes one JSON object."""
