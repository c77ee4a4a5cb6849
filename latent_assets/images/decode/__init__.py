"""From bytes of unknown origin to the image that is stored. Pure functions of the bytes and the profile.

`image` decides; `formats` sniffs, `limits` refuses, `jpeg` and `metadata` read files without decoding, `pixels`
decodes and encodes, `resize` scales and turns. Where the bytes come from and where the image goes is not known here.
"""
