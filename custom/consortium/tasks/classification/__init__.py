"""Classifies frontal chest X-rays."""
