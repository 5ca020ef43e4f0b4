"""What people look at after a run: the page, the curves and the pictures."""
