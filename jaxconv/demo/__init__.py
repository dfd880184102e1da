"""python -m jaxconv.demo: a page on which one draws, and a trained net says what it sees."""
