"""Where everything lies below an atlas's root: the one place that knows its folders and file names.

    latent-assets.json                          which source all of this is made from
    source/                                     the built-in data set (a root on S3: below the home directory)
    catalog/{shard}.parquet, index.parquet      rows
    images/{part}.tar, {part}.parquet           images and their ledger; {part}.partial/ is the journal
    thumbnails/{fingerprint}/{shard}.arrow
    embeddings/{fingerprint}/{shard}.arrow      ids and features; {shard}.latents.arrow the whole latents
    projection/{fingerprint}/                   model.safetensors and coords/{shard}.parquet
    lance/                                      the LanceDB tables `atlas` and `generated`
    tiles/{release}/                            what the viewer reads; tiles/sprites/ are thumbnails of all releases
    generated/                                  inbox, batches, accepted, images, vectors, quarantine, calibration
    releases/{number}.json                      moves of the tag `live`
    takedowns/                                  tombstones.json; {key}.json is the record of one, {key}.plan.json what
                                                one that has not ended yet takes out
    manifests/{stage}/{key}.json                what has been made; notes on what failed or is damaged
    claims/{name}/                              who makes what
    pictures/{asset}/                           what the Dagster UI shows

A part of a shard is named as its shard, or `{shard}/{number}-of-{count}` (see `images.store.parts`). Names are relative
to the root and are given to `storage.Storage`.
"""

from __future__ import annotations

OWNER = "latent-assets.json"  # also tells a root from other directories
SOURCE = "source"

# -- catalog -------------------------------------------------------------------------------------------

CATALOG = "catalog"
CATALOG_INDEX = f"{CATALOG}/index.parquet"


def catalog_name(shard: str) -> str:
    """A shard of the catalog."""
    return f"{CATALOG}/{shard}.parquet"


# -- images --------------------------------------------------------------------------------------------

IMAGES = "images"


def tar_name(part: str) -> str:
    """The images of a shard or part."""
    return f"{IMAGES}/{part}.tar"


def ledger_name(part: str) -> str:
    """The ledger of a shard or part."""
    return f"{IMAGES}/{part}.parquet"


LEDGERS = f"{IMAGES}/**/*.parquet"  # all of them, as a glob


def journal_folder(part: str) -> str:
    """The journal of a shard or part that is not finished."""
    return f"{IMAGES}/{part}.partial"


def parts_folder(shard: str) -> str:
    """The folder of the parts of a shard that has several."""
    return f"{IMAGES}/{shard}"


# -- embeddings ----------------------------------------------------------------------------------------


def embedding_name(model_fingerprint: str, shard: str) -> str:
    """The ids and features of a shard under one model."""
    return f"embeddings/{model_fingerprint}/{shard}.arrow"


def latents_name(features_name: str) -> str:
    """The whole latents beside the features of `embedding_name`."""
    return f"{features_name.removesuffix('.arrow')}.latents.arrow"


def thumbnail_name(thumbnail_fingerprint: str, shard: str) -> str:
    """The thumbnails of a shard under one set of settings (`thumbnails.thumbnail_fingerprint`)."""
    return f"thumbnails/{thumbnail_fingerprint}/{shard}.arrow"


# -- projection ----------------------------------------------------------------------------------------


def model_name(fingerprint: str) -> str:
    """The fitted maps of a fingerprint."""
    return f"projection/{fingerprint}/model.safetensors"


def index_name(fingerprint: str, space: str) -> str:
    """What finds the nearest fitted rows of a space, where there are many."""
    return f"projection/{fingerprint}/index_{space}.safetensors"


def coords_name(model_fingerprint: str, shard: str) -> str:
    """The coordinates of a shard on fitted maps."""
    return f"projection/{model_fingerprint}/coords/{shard}.parquet"


def model_of(coordinates: str) -> str:
    """The fingerprint of the maps that `coordinates`, a name of `coords_name`, were placed on."""
    return coordinates.split("/")[1]


# rooms whose files lie below the fingerprint of what made them
BY_FINGERPRINT = ("embeddings", "thumbnails", "projection")


def fingerprint_folder(name: str) -> str:
    """The folder of the artefacts of one fingerprint, `{room}/{fingerprint}`, that a file lies in."""
    return "/".join(name.split("/")[:2])


def projection_folder(fingerprint: str) -> str:
    """The folder of fitted maps and of the coordinates on them."""
    return f"projection/{fingerprint}"


# -- tables --------------------------------------------------------------------------------------------

LANCE = "lance"
ATLAS_TABLE = "atlas"
GENERATED_TABLE = "generated"


def table_folder(table: str) -> str:
    """The folder of a table below a LanceDB directory."""
    return f"{table}.lance"


RELEASES = "releases"


def move_name(number: int) -> str:
    """The note of a move of the tag `live`; in the order of their numbers."""
    return f"{RELEASES}/{number:08d}.json"


TAKEDOWNS = "takedowns"
TOMBSTONES = f"{TAKEDOWNS}/tombstones.json"
PLAN_SUFFIX = ".plan.json"


def takedown_name(key: str) -> str:
    """The record of a takedown that has ended."""
    return f"{TAKEDOWNS}/{key}.json"


def plan_name(key: str) -> str:
    """What a takedown that has not ended yet takes out."""
    return f"{TAKEDOWNS}/{key}{PLAN_SUFFIX}"


def table_name(table: str) -> str:
    """The folder of a table, from the root."""
    return f"{LANCE}/{table_folder(table)}"


def table_file(table: str, file: str) -> str:
    """A data file of a table."""
    return f"{LANCE}/{table_folder(table)}/data/{file}"


# -- tiles ---------------------------------------------------------------------------------------------

TILES = "tiles"
TILES_INDEX = f"{TILES}/releases.json"
SPRITES = f"{TILES}/sprites"


def tile_name(release: str, name: str) -> str:
    """A file of a release's tiles."""
    return f"{TILES}/{release}/{name}"


def sprites_name(key: str) -> str:
    """The thumbnails of a shard."""
    return f"{SPRITES}/{key}.bin"


# -- generated images ----------------------------------------------------------------------------------

GENERATED = "generated"
INBOX = f"{GENERATED}/inbox"
BATCHES = f"{GENERATED}/batches"
ACCEPTED = f"{GENERATED}/accepted"
ORIGINALS = f"{GENERATED}/images"
QUARANTINE = f"{GENERATED}/quarantine"


VECTORS = f"{GENERATED}/vectors"
SERVICE_INBOX = f"{INBOX}/service"


def vectors_name(sha256: str) -> str:
    """Vectors that were made of a generated image when it was accepted."""
    return f"{VECTORS}/{sha256}.safetensors"


def kept_name(sha256: str, extension: str) -> str:
    """A file that the service put into the inbox; its sidecar has the extension `json`."""
    return f"{SERVICE_INBOX}/{sha256}.{extension}"


def batch_name(digest: str) -> str:
    """The note that lists the files of one run."""
    return f"{BATCHES}/{digest}.json"


def accepted_name(digest: str) -> str:
    """The note on images that were taken, under the digest of its text."""
    return f"{ACCEPTED}/{digest}.json"


def original_name(sha256: str, extension: str) -> str:
    """A generated image as it came."""
    return f"{ORIGINALS}/{sha256}.{extension}"


def quarantined_name(key: str) -> str:
    """A file that could not be taken."""
    return f"{QUARANTINE}/{key}"


REASON_SUFFIX = ".reason.json"


def reason_name(key: str) -> str:
    """Why a file could not be taken. key: that of the file, without its extension."""
    return f"{QUARANTINE}/{key}{REASON_SUFFIX}"


def calibration_name(fingerprint: str) -> str:
    """The usual distances between real images of a release."""
    return f"{GENERATED}/calibration/{fingerprint}.safetensors"


# -- the record ----------------------------------------------------------------------------------------


def manifests_folder(stage: str) -> str:
    """The manifests of a stage and the notes on it."""
    return f"manifests/{stage}"


def manifest_name(stage: str, key: str) -> str:
    """The manifest of one artefact, or, with the note's suffix behind its key, a note on it."""
    return f"{manifests_folder(stage)}/{key}.json"


CLAIMS = "claims"


def claims_folder(name: str) -> str:
    """Who makes the artefact of a name."""
    return f"{CLAIMS}/{name}"


PICTURES = "pictures"


def picture_folder(asset: str) -> str:
    """The pictures of an asset."""
    return f"{PICTURES}/{asset}"


def picture_name(asset: str, name: str, kind: str) -> str:
    """A picture that the Dagster UI shows of an asset. kind: the file's extension."""
    return f"{picture_folder(asset)}/{name.replace(' ', '-')}.{kind}"
