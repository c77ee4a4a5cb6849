"""From a URL to bytes that may be an image: safely, politely, and with a reason where nothing comes.

`http_client` downloads one URL, `urls` makes it fit to be asked for, `addresses` says what may be connected to,
`host_queue` who may be asked when, `robots` and `optout` what may be kept; `request` is what goes in and comes out,
`health` judges what came of a shard. Attempts and deadlines are in `fetcher`, the bytes are decoded in `decode`.
"""
