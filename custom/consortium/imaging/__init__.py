"""Reads image files into arrays, for every task: NIfTI, DICOM, PNG and JPEG."""
