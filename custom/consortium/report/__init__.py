"""Renders a run for people: the page, the curves and the pictures."""
