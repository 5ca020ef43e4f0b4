"""Tests whether a model learned the disease or the hospital, from counts, means and scatters alone.

`moments` summarises a group of patients, `acquisition` describes how an image was made, and `probe`
tests and gives the verdict. Everything here is pure.
"""
