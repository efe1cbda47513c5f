"""Data sets in COCO's format: how they are found, read, checked, counted and mended."""
