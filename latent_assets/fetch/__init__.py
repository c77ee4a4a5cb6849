"""From a shard of the catalog to a tar of images and a ledger with one outcome for every row.

`shard` does one shard, in the `parts` that its tars are; `rows` takes rows through their attempts, `desk` stores what
came of them. `web` downloads safely, `politeness` decides who may be asked when, `addresses` what may be connected to,
`robots` and `optout` what may be kept, `image` and `resize` what is stored, `journal` and `ledger` what is known.
What happens to the images afterwards is not decided here.
"""
