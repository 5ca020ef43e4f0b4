"""Generates patients of several hospitals, to try a federation without real patients.

`xrays` draws chest X-rays; with a shortcut, their scanner reveals the hospital. For brain scans,
`fields` has smooth random functions of space, `anatomy` a head, `tumour` a tumour, `scanner` the
images of both, `protocols` the sequences and labels of a study, `hospitals` the hospitals with
their patients and scanners; `dataset` writes the folders in the layout of the Medical Segmentation
Decathlon. A patient depends on the seed, the hospital and the patient's number alone.
"""
