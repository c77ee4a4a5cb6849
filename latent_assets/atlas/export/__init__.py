"""A release in the formats of other tools. Each export says where it comes from, row by row and as a whole.

What is exported is what the release holds: images whose sites said no were never in it, what was taken down is not.
"""
