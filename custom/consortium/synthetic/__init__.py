"""Patients that look like several hospitals': a federation can be tried without real ones.

`tables` writes tables, and `xrays` draws chest X-rays whose scanner gives the hospital away. Of
brain scans, `fields` holds smooth random functions of space, `anatomy` a head, `tumour` what grows
in it, `scanner` what a machine makes of both, `protocols` what a study acquires and outlines,
`hospitals` who has which patients and scanners, and `dataset` writes it all in the layout of the
Medical Segmentation Decathlon. A patient is a function of the seed, the hospital's name or place
and the patient's number, and of nothing else.
"""
