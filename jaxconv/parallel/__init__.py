"""The devices of a run, and how arrays are placed on them."""
