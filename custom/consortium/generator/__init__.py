"""Patients that look like several hospitals': a federation can be tried without real ones.

`tables` writes tables. Of brain scans, `fields` holds smooth random functions of space, `anatomy` a
head, `tumour` what grows in it, `scanner` what a machine makes of both, `protocols` what a study
acquires and outlines, `hospitals` who has which patients and scanners, and `dataset` writes it all
in the layout of the Medical Segmentation Decathlon. A patient is a function of the seed, the
hospital's name and the patient's number, and of nothing else.
"""
