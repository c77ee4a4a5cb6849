"""The resident service: an HTTP API over the release that is live, and the files of the viewer.

api.py         the routes: what is asked, what is answered
answers.py     the answers as types, with examples
problems.py    errors as problem details (RFC 9457)
access.py      who may ask: hosts, origins, the token, how many requests at once
queues.py      bounded work: who waits, who is refused
uploads.py     an image out of a request's body, never more of it than is allowed
releases.py    the release that is live, with its models, followed without a restart
looking.py     searches, rows and thumbnails of a release
placements.py  where an image falls, as the API says it
keeping.py     images that were accepted: into the inbox, and found again before they are in the table
streams.py     work that is told while it happens
generating.py  images from prompts, told as they form
synthesizing.py  walks through latent space, and what a place of a map stands for
compression.py answers made smaller
static.py      tiles and the viewer's files
server.py      a process that listens
record.py      which service runs for a root, for the command line
remote.py      asking that service, without loading anything heavy

It reads the atlas and writes into the inbox only: rows of the table `generated` are made by the Dagster asset.
"""
