"""Networks that name what an image shows, with a spatial pyramid or without (paper, section 3)."""
