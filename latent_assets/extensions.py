"""Extensions of a profile: Python files or modules that register further embeddings and spaces when imported."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from latent_assets.errors import ProfileError


def load_extension(extension: str, file: Path, locate: Callable[[str], str]) -> str:
    """Import an extension that the profile `file` names, once per process and content.

    Returns its name; a file's path is made absolute by `locate`.
    Raises ProfileError when it is not there, cannot be imported, or registers what is taken.
    """
    is_file = extension.endswith(".py") or "/" in extension
    chosen = locate(extension) if is_file else extension
    try:
        if is_file:
            _import_file(Path(chosen))
        else:
            import_module(chosen)
    except Exception as error:  # an extension is anyone's code
        if isinstance(error, FileNotFoundError | ModuleNotFoundError) and (
            not Path(chosen).is_file() if is_file else chosen.startswith(getattr(error, "name", None) or " ")
        ):
            raise ProfileError(
                f"{file}: `extensions`: {chosen} is not there: correct the path (it starts at the profile's directory) "
                "or the module's name, or leave it out."
            ) from None
        raise ProfileError(
            f"{file}: `extensions`: {chosen} cannot be imported ({type(error).__name__}: {error}). Mend it; after a "
            "change of an extension that was loaded, start the process anew."
        ) from error
    return chosen


def _import_file(path: Path) -> None:
    """Import a Python file under a name made from its content, which `spaces.resolve` finds again."""
    name = f"latent_assets_extension_{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    sys.modules[name] = module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def extension_code(extension: str) -> bytes:
    """The bytes of an extension's file; nothing for one that is not a file any more."""
    spec = find_spec(extension) if not extension.endswith(".py") and "/" not in extension else None
    path = Path((spec.origin if spec else extension) or "")
    return path.read_bytes() if path.is_file() else b""
