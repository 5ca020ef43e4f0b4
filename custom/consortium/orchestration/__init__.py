"""Rounds: who was asked, who answered, which model is kept, and what a run leaves behind.

Pure: no FLARE, no torch. The shells in `consortium.flare` translate between it and FLARE.
"""
