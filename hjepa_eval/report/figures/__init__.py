"""Figures: each module turns data into a matplotlib figure, and that into a picture for a page."""
