"""The two towers, their exchange, and their weights on disk."""
