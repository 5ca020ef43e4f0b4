"""Whether a model learned the disease or the hospital, from counts, means and scatters alone.

`moments` is what a hospital says of a group of its patients, `acquisition` describes an image
without its anatomy, and `probe` tests and judges. Everything here is pure.
"""
