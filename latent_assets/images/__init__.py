"""From a shard of the catalog to a tar of images and a ledger with one outcome for every row.

`shard` does one shard, in the `parts` that its tars are; `rows` takes rows through their attempts. `web` downloads
safely, `politeness` decides who may be asked when, `addresses` what may be connected to, `robots` and `optout` what may
be kept. What came of a row goes over the `desk` to `workers`, processes (what goes on in one: `worker`) in which a
`clerk` has the image made (`image`, `pixels`, `resize`) and enters it in the `journal`; `ledger` and `tar` are what a
finished shard is.
What happens to the images afterwards is not decided here.
"""
