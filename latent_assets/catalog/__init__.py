"""From a list of images as it is found in the wild to the catalog: clean rows in fixed shards.

`schema` names the columns, `source` finds the files, `columns` maps them, `filters` drops rows and counts why,
`hashing` identifies rows, `sharding` decides which of the `shards` a row belongs to, `build` does it all. Fetching the
images is the business of `fetch`.
"""
