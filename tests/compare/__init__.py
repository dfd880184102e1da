"""Tests of jaxconv.compare."""
