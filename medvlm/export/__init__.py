"""Folders that stock loaders read, their model card and their parity proof."""
