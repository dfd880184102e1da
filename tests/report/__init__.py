"""Tests of jaxconv.report."""
