"""A training run: its stages, each of which an interrupted run takes up again."""
