"""A hospital's folder: its cases, whether they are sound, and how they become tensors."""
