"""A hospital's folder: which cases it holds, whether they are sound, and how they become tensors."""
