"""Photographs named as a whole, and their features put to other tasks (paper, section 3)."""
