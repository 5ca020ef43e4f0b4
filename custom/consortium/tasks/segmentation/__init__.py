"""The segmentation task: outlines structures on scans."""
