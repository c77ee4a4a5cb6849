"""The profile: one typed TOML file that says what to build.

Parsing, validation and its errors live here. What a profile means is the business of the rooms that read it.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from latent_assets import spaces
from latent_assets.errors import ProfileError
from latent_assets.extensions import extension_code, load_extension
from latent_assets.spaces import Embedding, Space
from latent_assets.text import decode_text
from latent_assets.urls import checked_origin

PROFILE_VARIABLE = "LATENT_ASSETS_PROFILE"
HOME_VARIABLE = "LATENT_ASSETS_HOME"
DEFAULT_PROFILE = "demo"
PICTURES_VARIABLE = "LATENT_ASSETS_PICTURES"  # where `latent-assets ui` serves the pictures of its atlases

Origin = Annotated[str, AfterValidator(checked_origin)]
Probability = Annotated[float, Field(ge=0, le=1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_BACKSLASHES = "A backslash between double quotes begins an escape: write paths in single quotes, 'C:\\Users\\me'."

# paths in [models.*]: made absolute from the profile's directory. A MODEL may also be a repository's name.
FILE: dict[str, Any] = {"path": "file"}
MODEL: dict[str, Any] = {"path": "model"}


class _Section(BaseModel):
    """A table of the profile: no unknown keys, no coercion of wrong types, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Section):
    """Where the list of images comes from.

    `kind="metadata"` reads files of image links, `webdataset` tars that already hold images, `folder` a
    directory of images. `builtin` names a data set the package ships: it is written below the root and
    served over HTTP on `origin` (loopback) while images are fetched.
    """

    kind: Literal["metadata", "webdataset", "folder"] = "metadata"
    path: str | None = Field(default=None, description="file, directory or glob; local, s3://, hf:// or https://")
    builtin: Literal["openmoji"] | None = None
    origin: Origin | None = Field(
        default=None, description="http://127.0.0.1:PORT on which a builtin data set is served"
    )
    format: Literal["auto", "parquet", "csv", "jsonl", "txt"] = Field(
        default="auto", description="by default what the name says; txt is one URL a line"
    )
    # "auto" recognises the known schemas by their columns
    schema_name: Literal["auto", "laion", "laion-aesthetic", "relaion", "datacomp", "coyo"] = "auto"
    columns: dict[str, str] = Field(default_factory=dict, description="catalog column -> column of the source")
    skip_bad_rows: bool = Field(
        default=False, description="leave out, and count, lines and sidecars that cannot be read, instead of stopping"
    )
    caption: Annotated[str, Field(pattern=r"^(auto|whole|first_line|key:[^=\s]+)$")] = Field(
        default="auto",
        description="which part of a .txt beside an image is its caption: `whole`, `first_line`, or `key:NAME`, the "
        "value of a line NAME=value. `auto`: the first line, where all lines behind it are key=value, else the whole",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        if (self.path is None) == (self.builtin is None):
            raise ValueError("set exactly one of `path` (your data) and `builtin` (a data set in the package)")
        if self.builtin and not self.origin:
            raise ValueError("`builtin` is served over HTTP: set `origin`, for example http://127.0.0.1:8765")
        return self


class Filters(_Section):
    """Which rows of the source become the catalog. A row is dropped by the first rule that hits it."""

    min_aesthetic: float | None = None
    max_punsafe: Probability | None = None
    max_pwatermark: Probability | None = None
    min_width: Annotated[int, Field(ge=1)] | None = None
    min_height: Annotated[int, Field(ge=1)] | None = None
    require_caption: bool | None = Field(
        default=None,
        description="drop rows without a caption; by default all but those of lists that have no column of captions",
    )
    sample: Annotated[int, Field(ge=1)] | None = Field(default=None, description="keep this many rows, chosen by seed")
    seed: int = 0
    remove: tuple[str, ...] = Field(default=(), description="files of URLs, domains, hashes or ids never to fetch")


class Shards(_Section):
    """How the catalog is cut into Dagster partitions."""

    rows: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10_000, description="rows of a shard and its tar; of each of its tars when there are too many rows"
    )
    max_partitions: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=10_000, description="new shards take at most half of what is left of these"
    )
    per_run: Annotated[int, Field(ge=1, le=1_000)] = Field(default=16, description="shards one run takes")


# keys of [fetch] that decide how an image is stored
HOW_STORED = frozenset({"resize", "size", "format", "quality"})


class Fetch(_Section):
    """How images are downloaded and stored."""

    contact: str | None = Field(default=None, description="mail address or page in the user agent")
    resize: Literal["longest", "shortest", "center_crop", "none"] = "shortest"
    size: Annotated[int, Field(ge=16, le=4096)] = 512
    format: Literal["jpeg", "webp", "png", "raw"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=100)] = 92
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 256
    per_host: Annotated[int, Field(ge=1, le=256)] = 8
    per_host_rate: Annotated[float, Field(gt=0)] | None = Field(default=None, description="requests a second and host")
    timeout: Annotated[float, Field(gt=0)] = Field(default=20.0, description="seconds for one row, everything included")
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    max_bytes: Annotated[int, Field(ge=1024)] = 50_000_000
    max_pixels: Annotated[int, Field(ge=1024)] = 100_000_000
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 5
    robots: bool = True
    respect_opt_out: bool = True
    allow_origins: tuple[Origin, ...] = Field(
        default=(), description="http://HOST:PORT of servers that are asked although their address is not public"
    )
    min_success: Probability = Field(default=0.3, description="below this the blocking check of a shard fails")
    warn_success: Probability = 0.5


class ClipModel(_Section):
    """An open_clip model: a name and pretrained tag it knows, or a config file with weights.

    `config`, `weights` and `text_encoder` are paths; `package:NAME/PATH` is a path inside an installed
    Python package.
    """

    name: str | None = None
    pretrained: str | None = None
    config: str | None = Field(default=None, json_schema_extra=FILE)
    weights: str | None = Field(default=None, json_schema_extra=FILE)
    text_encoder: str | None = Field(default=None, json_schema_extra=FILE)
    dtype: Dtype = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 64

    @model_validator(mode="after")
    def _named_or_local(self) -> ClipModel:
        if (self.name is None) == (self.config is None):
            raise ValueError("set either `name` (with `pretrained`) or `config` (with `weights`)")
        if self.name is not None and self.pretrained is None:
            raise ValueError("`name` needs `pretrained`, for example openai")
        if self.config is not None and self.weights is None:
            raise ValueError("`config` needs `weights`, a safetensors file")
        return self


class VaeModel(_Section):
    """An autoencoder of diffusers: a repository name or a directory."""

    model: str = Field(json_schema_extra=MODEL)
    size: Annotated[int, Field(ge=32, le=2048)] = 512
    dtype: Dtype = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 16
    feature_dim: Annotated[int, Field(ge=8, le=4096)] = Field(default=256, description="length of the map feature")

    @model_validator(mode="after")
    def _whole_latents(self) -> VaeModel:
        if self.size % 8:
            raise ValueError("`size` must be a multiple of 8")
        return self


class DiffusionModel(_Section):
    """A text-to-image pipeline that `StableDiffusionPipeline.from_pretrained` loads.

    `text_encoder` and `vae` replace the pipeline's own components by those of a path.
    """

    model: str = Field(json_schema_extra=MODEL)
    text_encoder: str | None = Field(default=None, json_schema_extra=MODEL)
    vae: str | None = Field(default=None, json_schema_extra=MODEL)
    text_length: Annotated[int, Field(ge=8, le=512)] = Field(default=77, description="tokens, with a `text_encoder`")
    size: Annotated[int, Field(ge=32, le=2048)] = 512
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guidance: Annotated[float, Field(ge=0)] = 7.5
    dtype: Dtype = "auto"


class Models(_Section):
    """The models of an atlas: a table for each embedding, typed by the `settings` of its row in `spaces`.

    A space needs the models it is made from. `diffusion` makes images and embeds none.
    """

    clip: ClipModel | None = None
    vae: VaeModel | None = None
    diffusion: DiffusionModel | None = None

    def of(self, name: str) -> Any:
        """The settings of [models.NAME], or None when the profile has no such table."""
        return getattr(self, name, None) if name in type(self).model_fields else None


class MapLimits(_Section):
    """What a map must be like to be taken: figures of `projection.quality`, of fitted and of placed rows alike.

    They are asked of maps of 100 rows and more. `drift` only warns.
    """

    min_trustworthiness: Probability = 0.7
    min_continuity: Probability = 0.7
    min_recall: Probability = Field(default=0.0, description="of the 15 nearest; falls as an atlas grows")
    min_triplets: Probability = 0.5
    max_far_outliers: Probability = 0.05
    max_drift: Probability = Field(default=0.03, description="median displacement, as a share of the map's diameter")
    max_drift_over_floor: Annotated[float, Field(ge=1)] = Field(
        default=1.5, description="the same, in displacements of two fits that differ in their seed alone"
    )


class Projection(_Section):
    """UMAP settings, shared by all spaces. Names as in umap-learn."""

    spaces: tuple[str, ...] = ("clip", "vae", "joint")
    backend: Literal["auto", "umap-learn", "cuml"] = "auto"
    n_neighbors: Annotated[int, Field(ge=2, le=500)] = 15
    min_dist: Annotated[float, Field(ge=0, le=1)] = 0.1
    n_epochs: Annotated[int, Field(ge=1)] | None = None
    seed: int = 42
    fit_rows: Annotated[int, Field(ge=32)] | None = Field(
        default=None,
        description="above this landmarks are fitted and the rest is placed; by default as many as the backend fits in "
        "minutes: 50,000 with umap-learn, 1,000,000 with cuML",
    )
    limits: MapLimits = Field(default_factory=MapLimits)
    calibration_share: Probability = Field(
        default=0.02, description="rows kept out of the fit: what is usual between real images is measured on them"
    )
    calibration_rows: Annotated[int, Field(ge=20)] = Field(
        default=200, description="at least so many; none where that were more than a fifth of the rows"
    )
    joint_clip_weight: Probability = Field(
        default=0.5, description="share of the first embedding (clip in `joint`) in the distances of a space of two"
    )

    @field_validator("spaces")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in spaces.spaces():
                raise ValueError(f"there is no space `{name}`; known here: {', '.join(spaces.spaces())}")
        return names

    @model_validator(mode="after")
    def _distinct(self) -> Projection:
        if not self.spaces or len(set(self.spaces)) != len(self.spaces):
            raise ValueError("`spaces` needs at least one space, each named once")
        return self


class Labels(_Section):
    """Names of the regions of the maps."""

    boilerplate: tuple[str, ...] = Field(
        default=(), description="words of captions that say nothing of an image, beside those that are known"
    )


class Table(_Section):
    """The LanceDB table `atlas`."""

    thumbnail_size: Annotated[int, Field(ge=16, le=96)] = 96
    thumbnail_format: Literal["webp", "jpeg"] = "webp"
    thumbnail_quality: Annotated[int, Field(ge=1, le=100)] = 80
    vectors: Literal["float32", "float16"] = Field(
        default="float32", description="float16 halves their bytes, and some readers (Node, DuckDB) cannot read it"
    )
    index_above_rows: Annotated[int, Field(ge=1)] = Field(
        default=20_000, description="vectors are searched through an index above this, exactly below"
    )
    keep: Annotated[int, Field(ge=1, le=1000)] = Field(default=3, description="newest releases that are kept")
    keep_days: Annotated[float, Field(ge=0)] = Field(
        default=2.0, description="releases that were live less than so many days ago are kept: the longest read"
    )


class Generated(_Section):
    """Generated images: how many a run takes out of the inbox, and how long they are kept (for ever without)."""

    batch: Annotated[int, Field(ge=1, le=10_000)] = Field(default=1_000, description="images of one run at most")
    max_age_days: Annotated[float, Field(gt=0)] | None = Field(default=None, description="older ones are deleted")
    max_images: Annotated[int, Field(ge=1)] | None = Field(default=None, description="above it the oldest are deleted")


class Service(_Section):
    """The HTTP service (`latent-assets serve`): how much it takes at once. What it builds does not depend on it."""

    image_bytes: Annotated[int, Field(ge=1024, le=1_000_000_000)] = Field(
        default=20_000_000, description="of an uploaded image at most; never more than fetch.max_bytes"
    )
    image_pixels: Annotated[int, Field(ge=1024)] = Field(
        default=50_000_000, description="of an uploaded image at most; never more than fetch.max_pixels"
    )
    prompt_length: Annotated[int, Field(ge=1, le=10_000)] = Field(default=2_000, description="characters of a prompt")
    steps: Annotated[int, Field(ge=1, le=1_000)] = Field(default=100, description="of denoising, at most")
    frames: Annotated[int, Field(ge=2, le=33)] = Field(default=17, description="of a walk between two images, at most")
    queue: Annotated[int, Field(ge=0, le=10_000)] = Field(default=64, description="uploads and searches that wait")
    generations: Annotated[int, Field(ge=0, le=1_000)] = Field(default=8, description="generations that wait")
    per_client: Annotated[int, Field(ge=1)] = Field(default=32, description="requests of one client at a time")
    generations_per_client: Annotated[int, Field(ge=1)] = Field(default=2, description="generations of one client")
    inbox: Annotated[int, Field(ge=1)] = Field(default=10_000, description="kept images that wait to be taken, at most")


class Profile(_Section):
    """What to build. Read one with `load_profile`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    title: str = ""
    attribution: str = Field(default="", description="shown with every image: whose work this is, and its licence")
    examples: tuple[str, ...] = Field(
        default=("a portrait", "a landscape", "something red"), description="queries to begin with"
    )
    root: str = Field(default="", description="directory or s3://bucket/prefix; default: below the home directory")
    extensions: tuple[str, ...] = Field(
        default=(), description="modules, or Python files, that register further embeddings and spaces"
    )
    allow_unfit: bool = Field(
        default=False, description="build with models that do not know images like these; the atlas then says so"
    )
    source: Source
    filters: Filters = Filters()
    shards: Shards = Shards()
    fetch: Fetch = Fetch()
    models: Models
    projection: Projection = Projection()
    labels: Labels = Labels()
    table: Table = Table()
    generated: Generated = Generated()
    service: Service = Service()

    @model_validator(mode="after")
    def _spaces_have_models(self) -> Profile:
        for space in self.spaces:
            for model in space.embeddings:
                if self.models.of(model) is None:
                    raise ValueError(
                        f"projection.spaces has `{space.name}`, which needs [models.{model}]: "
                        f"add that table or leave `{space.name}` out"
                    )
        return self

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """The embeddings that this profile has a table for, in the order of registration."""
        return tuple(row for name, row in spaces.embeddings().items() if self.models.of(name) is not None)

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The rows of `projection.spaces`, in that order."""
        known = spaces.spaces()
        return tuple(known[name] for name in self.projection.spaces)

    @property
    def fingerprint(self) -> str:
        """Hash of the resolved profile, but for [service], and of its extensions' code: 16 hexadecimal digits."""
        digest = hashlib.sha256(self.model_dump_json(exclude={"service"}).encode())
        for extension in self.extensions:
            digest.update(extension_code(extension))
        return digest.hexdigest()[:16]


def home() -> Path:
    """Directory that holds local atlases: $LATENT_ASSETS_HOME, else `.latent-assets` of the checkout or user."""
    if value := os.environ.get(HOME_VARIABLE):
        return Path(value).expanduser().absolute()
    return (checkout() or Path.home()) / ".latent-assets"


def checkout() -> Path | None:
    """The checkout that the package is used from; None where it is installed."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "workspace.yaml").is_file() else None


def shipped_profiles() -> list[str]:
    """Names of the profiles in the package, sorted."""
    folder = resources.files("latent_assets") / "profiles"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def resolve_path(value: str, base: Path | None = None) -> str:
    """Turn `package:NAME/PATH` into a file path; make other local paths absolute (against `base`).

    Raises ProfileError when the package is not installed, and for control characters, which are no path anybody meant.
    Nothing is imported.
    """
    if any(character < " " or character == "\x7f" for character in value):
        raise ProfileError(f"the path {value!r} has control characters in it. {_BACKSLASHES}")
    if value.startswith("package:"):
        package, _, inner = value.removeprefix("package:").partition("/")
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ProfileError(f"`{value}`: the Python package `{package}` is not installed; pip install it.")
        return str(Path(next(iter(spec.submodule_search_locations))) / inner)
    if "://" in value:
        return value
    path = Path(value).expanduser()
    return str(path if path.is_absolute() else (base or Path.cwd()) / path)


def load_profile(selection: str | os.PathLike[str] | None = None) -> Profile:
    """Read, check and resolve a profile.

    `selection` is the name of a shipped profile or the path of a TOML file; without it
    $LATENT_ASSETS_PROFILE, else `demo`. Raises ProfileError naming the file, the key and the remedy.
    """
    chosen = os.fspath(selection or os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE)
    base = Path.cwd()
    if chosen in shipped_profiles():
        file = Path(str(resources.files("latent_assets") / "profiles" / f"{chosen}.toml"))
    else:
        file = Path(chosen).expanduser()
        base = file.resolve().parent
        if not file.is_file():
            raise ProfileError(
                f"There is no profile `{chosen}`: give the path of a TOML file or one of the shipped profiles "
                f"({', '.join(shipped_profiles())})."
            )
    try:
        text = decode_text(file.read_bytes(), str(file), error=ProfileError)
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = _BACKSLASHES if "\\" in text else "See `latent-assets profile show demo`."
        raise ProfileError(f"{file}: not valid TOML: {error}. {hint}") from error
    return parse_profile(values, file, base)


def profile_toml(profile: Profile) -> str:
    """A resolved profile as TOML text, defaults filled in: `load_profile` of that text is the same profile again.

    TOML has no null: a key without a value is left out.
    """
    import tomli_w

    return tomli_w.dumps(profile.model_dump(mode="json", exclude_none=True))


def parse_profile(values: dict[str, Any], file: Path, base: Path) -> Profile:
    """Check the parsed TOML `values` of `file` and make its relative paths absolute, from `base`.

    A file's own paths start at its directory, a shipped profile's at the working directory.
    Its extensions are imported first, so that their embeddings are known. Raises ProfileError.
    """
    extensions = values.get("extensions", ())
    # anything else is refused below, with the key's name
    if isinstance(extensions, list | tuple) and all(isinstance(item, str) for item in extensions):
        extensions = tuple(load_extension(item, file, lambda path: resolve_path(path, base)) for item in extensions)
        values = {**values, "extensions": extensions} if extensions else values
    kind = _profile_type(values)
    try:
        profile = kind.model_validate(_tuples(values))
    except ValidationError as error:
        raise ProfileError(_explain(error, file, kind)) from None
    try:
        resolved = _resolved(profile, base)
        for row in resolved.embeddings:
            if row.check is not None:
                spaces.resolve(row.check)(resolved.models.of(row.name))
        spaces.resolve("latent_assets.models.fit:refuse_unfit")(resolved)
    except ProfileError as error:
        raise ProfileError(f"{file}: {error}") from None
    return resolved


def _profile_type(values: dict[str, Any]) -> type[Profile]:
    """`Profile`, with a field for each embedding that an extension registered and [models] names."""
    models = values.get("models")
    named = set(models) - set(Models.model_fields) if isinstance(models, dict) else set()
    # with a key that nobody knows, the refusal lists every key that is known
    known = spaces.embeddings()
    further = [row for name, row in known.items() if name not in Models.model_fields and named]
    return _extended(tuple((row.name, row.settings) for row in further)) if further else Profile


@lru_cache(maxsize=32)
def _extended(tables: tuple[tuple[str, str], ...]) -> type[Profile]:
    fields: dict[str, Any] = {name: (spaces.resolve(settings) | None, None) for name, settings in tables}
    models = create_model("Models", __base__=Models, __module__=__name__, **fields)
    return create_model("Profile", __base__=Profile, __module__=__name__, models=(models, ...))


def _tuples(value: Any) -> Any:
    """TOML arrays as tuples: the sections are immutable and strict."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _explain(error: ValidationError, file: Path, kind: type[Profile]) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "profile"
        if item["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(kind, item["loc"][:-1]))
            lines.append(f"{file}: `{key}`: there is no such key. Known here: {known}.")
        elif item["type"] == "missing":
            lines.append(f"{file}: `{key}` is missing: add it.")
        else:
            got = "" if isinstance(item["input"], dict) else f" (found {item['input']!r})"
            lines.append(f"{file}: `{key}`: {item['msg'].removeprefix('Value error, ')}{got}.")
    return "\n".join(lines)


def _known_keys(kind: type[Profile], location: tuple[int | str, ...]) -> list[str]:
    section: Any = kind
    for part in location:
        field = section.model_fields.get(part)
        options = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        section = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if section is None:
            return []
    return sorted(section.model_fields)


def _resolved(profile: Profile, base: Path) -> Profile:
    """The profile with absolute paths; relative ones start at `base`."""

    def path(value: str | None) -> str | None:
        """Absolute, but `package:` stays as it is (when it can be found): it means the same on every machine."""
        if value is None:
            return None
        found = resolve_path(value, base)
        return value if value.startswith("package:") else found

    def model(value: str | None) -> str | None:
        """A repository's name stays as it is, too."""
        local = value is not None and (value.startswith(("package:", "/", ".", "~")) or (base / value).exists())
        return path(value) if local else value

    def settings(section: BaseModel) -> BaseModel:
        """A table of [models] whose paths are absolute; its fields say which are paths."""
        found = {}
        for name, field in type(section).model_fields.items():
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            if extra.get("path"):
                found[name] = (path if extra["path"] == "file" else model)(getattr(section, name))
        return section.model_copy(update=found)

    models = {
        name: settings(section)
        for name in type(profile.models).model_fields
        if (section := profile.models.of(name)) is not None
    }
    return profile.model_copy(
        update={
            "root": resolve_path(profile.root, base) if profile.root else str(home() / profile.name),
            "source": profile.source.model_copy(update={"path": path(profile.source.path)}),
            "filters": profile.filters.model_copy(
                update={"remove": tuple(resolve_path(item, base) for item in profile.filters.remove)}
            ),
            "models": profile.models.model_copy(update=models),
        }
    )
