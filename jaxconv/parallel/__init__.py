"""Devices and what is where on them."""
