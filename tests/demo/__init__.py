"""Tests of jaxconv.demo."""
