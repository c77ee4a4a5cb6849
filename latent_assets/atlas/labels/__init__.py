"""Regions of the maps and their names: clusters at three levels, what sets their captions apart, who belongs to them.

Made from coordinates and captions before a release is staged; the table carries the cluster of every row.
"""
