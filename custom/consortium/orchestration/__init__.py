"""Rounds: which hospitals were asked and answered, which model is kept, what a run records.

Pure: no FLARE, no torch, no clock. `consortium.flare` translates between this package and FLARE.
"""
