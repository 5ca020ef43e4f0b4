"""Predicts an outcome of two classes from a table of patients."""
