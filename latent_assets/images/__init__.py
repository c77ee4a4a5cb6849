"""From a shard of the catalog to tars of images and a ledger with one outcome for every row.

    shard.py       ties it together: which rows are missing, and the tars and ledgers that come of them
    verify.py      reads what a shard stores and says what is wrong
    fetcher.py     takes rows through their attempts, many at a time
    outcome.py     the vocabulary of outcomes and reasons, and a row of the ledger
    download/      from a URL to bytes, safely and politely
    decode/        from bytes of unknown origin to the image that is stored
    store/         from results to journal, tar and ledger, in worker processes
    files.py       images that are here already: files of a folder, members of tars
    contact_sheet.py

What happens to the images afterwards is not decided here.
"""
