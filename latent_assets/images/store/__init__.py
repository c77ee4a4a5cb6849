"""From results of fetches to what a shard keeps: journal, tar and ledger.

`store_queue` takes results beside the event loop and hands them to `worker_pool`, processes (what goes on in one:
`worker`) in which a `recorder` has the image made and puts it into the `journal`; `tar` and `ledger` are what is left
of it in the end, in the `parts` that a shard has. What is fetched, and when a tar is written, is decided in `shard`.
"""
