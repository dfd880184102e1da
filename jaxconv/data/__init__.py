"""Where examples come from (sources), and the batches made of them (pipeline)."""
