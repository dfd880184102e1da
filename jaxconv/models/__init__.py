"""Nets as Flax modules, and the registry that turns config.model into one."""
