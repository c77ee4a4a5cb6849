"""Downloading what a profile's models need: resumably, with the hub's digests checked. Nothing is loaded."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_assets.errors import ModelError, ResourceError
from latent_assets.models.hub import PARTIAL, TOKENIZER, Repository, models_folder
from latent_assets.models.weights import clip_config, clip_repository
from latent_assets.progress import report

if TYPE_CHECKING:
    from latent_assets.profile import ClipModel, Profile

_ATTEMPTS = 5
_ROOM = 1.02  # times what is missing


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. `sha256`: "" where the hub does not say it (small text files)."""

    repository: str
    commit: str
    name: str
    bytes: int
    sha256: str

    @property
    def place(self) -> Path:
        """Where it is to lie."""
        return models_folder() / self.repository / self.name

    @property
    def partial(self) -> Path:
        """Where it lies until it is whole; the commit keeps two versions apart."""
        return self.place.with_name(f"{self.place.name}.{self.commit[:12]}{PARTIAL}")

    @property
    def missing(self) -> int:
        """Bytes that are still to come."""
        if self.place.is_file() and self.place.stat().st_size == self.bytes:
            return 0
        return self.bytes - (self.partial.stat().st_size if self.partial.is_file() else 0)


def repositories(profile: Profile) -> list[Repository]:
    """What of the hub a profile's models need; nothing for models that lie on this machine."""
    found: list[Repository] = []
    for row in profile.embeddings:
        spec = profile.models.of(row.name)
        if row.name == "clip":
            found += _of_clip(spec)
        elif row.name == "vae" and _is_repository(spec.model):
            found.append(Repository("models.vae.model", spec.model))
    if (diffusion := profile.models.diffusion) is not None:
        for key in ("model", "text_encoder", "vae"):
            value = getattr(diffusion, key)
            if value and _is_repository(value):
                found.append(Repository(f"models.diffusion.{key}", value))
    return list(dict.fromkeys(found))


def _of_clip(spec: ClipModel) -> Iterator[Repository]:
    """Its weights; the encoder and the vocabulary of its text tower, where they are others' work."""
    if spec.name is None or Path(str(spec.pretrained)).is_file():
        return
    yield clip_repository(spec)
    text = clip_config(spec)["text_cfg"]
    if name := text.get("hf_model_name"):
        yield Repository("models.clip.name", name, ("config.json",), ())
    if name := text.get("hf_tokenizer_name"):
        yield Repository("models.clip.name", name, TOKENIZER, ())


def _is_repository(model: str) -> bool:
    return not model.startswith("package:") and not Path(model).is_absolute()


def listed(repository: Repository) -> list[HubFile]:
    """The files of a repository that are wanted, with sizes and digests, as the hub says. Raises ModelError."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repository.name, files_metadata=True)
    except Exception as error:  # hub clients raise many kinds
        raise ModelError(
            f"{repository.key}: the hub cannot be asked for `{repository.name}` ({type(error).__name__}: {error}). "
            "Check the name and the network; for one that asks for consent, give it and set $HF_TOKEN."
        ) from error
    by_name = {item.rfilename: item for item in info.siblings or []}
    wanted = repository.wanted(list(by_name))
    if not wanted:
        raise ModelError(f"{repository.key}: `{repository.name}` has none of the files that are wanted.")
    return [_hub_file(repository.name, str(info.sha), by_name[name]) for name in wanted]


def _hub_file(repository: str, commit: str, item: Any) -> HubFile:
    if Path(item.rfilename).is_absolute() or ".." in Path(item.rfilename).parts:
        raise ModelError(f"`{repository}` names a file outside itself: {item.rfilename}. Nothing of it is fetched.")
    sha256 = item.lfs.sha256 if item.lfs else ""
    return HubFile(repository, commit, item.rfilename, int(item.size or 0), sha256)


def check_room(files: Sequence[HubFile]) -> None:
    """Raises ResourceError when the disk has no room for what is missing."""
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(file.missing for file in files) * _ROOM, shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"{folder} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are to come. Make room, or set "
            "$LATENT_ASSETS_MODELS to a folder on another disk.",
            "disk",
        )


def fetch(file: HubFile) -> None:
    """Bring a file to its place: what was begun goes on, and nothing stands there that is not whole.

    Raises ModelError when the hub does not give it, or gives other bytes than it says.
    """
    if file.missing == 0 and file.place.is_file():
        return
    file.partial.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _download(file)
            break
        except OSError as error:
            if attempt == _ATTEMPTS:
                raise ModelError(
                    f"{file.repository}/{file.name} could not be downloaded ({error}). What is here stays; the same "
                    "command goes on from there."
                ) from error
    with file.partial.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if file.sha256 and digest != file.sha256:
        file.partial.unlink()
        raise ModelError(
            f"{file.repository}/{file.name} has the SHA-256 {digest}, the hub says {file.sha256}: it is deleted. Fetch "
            "it again; if that does not help, something between here and the hub changes files."
        )
    file.partial.replace(file.place)


def _download(file: HubFile) -> None:
    """Append what is missing to the partial file. Raises OSError, also for what HTTP clients raise."""
    import httpx2
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    have = file.partial.stat().st_size if file.partial.is_file() else 0
    if have > file.bytes:
        file.partial.unlink()
        have = 0
    if have == file.bytes and have:
        return
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    address = hf_hub_url(file.repository, file.name, revision=file.commit)
    label = f"{file.repository}/{file.name}"
    try:
        with get_session().stream("GET", address, headers=headers, follow_redirects=True) as response:
            response.raise_for_status()
            goes_on = have > 0 and response.status_code == 206
            with file.partial.open("ab" if goes_on else "wb") as target:
                done = have if goes_on else 0
                for chunk in response.iter_bytes():  # as it comes: what a buffer holds would be lost
                    target.write(chunk)
                    done += len(chunk)
                    report(label, done, file.bytes, "bytes")
    except httpx2.HTTPError as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    if done != file.bytes:
        raise OSError(f"{done:,} of {file.bytes:,} bytes came")
