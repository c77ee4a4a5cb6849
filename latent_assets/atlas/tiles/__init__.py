"""Static files that the viewer reads: octrees of points, columns by row, thumbnails. FORMAT.md says it byte by byte.

A set of files per release, written from the table; any web server or S3 can serve it by range requests. What the
table is and which release is live is decided elsewhere.
"""
