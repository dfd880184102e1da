"""python -m jaxconv.compare: several runs on one page, and what speaks for a difference between them."""
