"""What a model was trained on: its card says it, or the name of published weights does.

A map says something about images like those that its models know; whoever builds one is told which these are.
"""

from __future__ import annotations

import re
from pathlib import Path

_CARD = "README.md"
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)^---\r?$", re.DOTALL | re.MULTILINE)
_DATASETS = re.compile(
    r"^datasets:[ \t]*(?P<inline>\S[^\r\n]*)?\r?\n(?P<items>(?:[ \t]*-[^\r\n]*\r?\n?)*)", re.MULTILINE
)
_LONGEST = 200

# beginning of a tag of open_clip -> the data its publishers name; the longest that fits counts
_TAGS: dict[str, str] = {
    "openai": "400 million pairs of image and text from the web (OpenAI's WIT, not published)",
    "laion400m": "LAION-400M, photographs and pictures of the web with English texts",
    "laion2b": "LAION-2B, photographs and pictures of the web with English texts",
    "laion5b": "LAION-5B, photographs and pictures of the web with texts in many languages",
    "frozen_laion5b": "LAION-5B, photographs and pictures of the web with texts in many languages",
    "laion_aesthetic": "LAION-Aesthetic, the 900 million images of LAION-2B that were judged to look well",
    "mscoco_finetuned_laion2b": "LAION-2B, then MS COCO, photographs with English descriptions",
    "merged2b": "Merged-2B, images of LAION-2B and COYO-700M from the web",
    "datacomp": "DataComp, filtered images of the web with English texts",
    "datacompdr": "DataCompDR-1B, filtered images of the web with English and synthetic texts",
    "commonpool": "DataComp's CommonPool, images of the web with English texts",
    "dfn2b": "DFN-2B, images of the web that a network chose",
    "dfn5b": "DFN-5B, images of the web that a network chose",
    "dfndr2b": "DFNDR-2B, images of the web that a network chose, with synthetic texts",
    "metaclip": "MetaCLIP's pairs of image and text from Common Crawl",
    "metaclip_400m": "MetaCLIP's 400 million pairs of image and text from Common Crawl",
    "metaclip_fullcc": "MetaCLIP's 2.5 billion pairs of image and text from Common Crawl",
    "metaclip2_worldwide": "MetaCLIP 2's pairs of image and text from Common Crawl, in many languages",
    "webli": "WebLI, images of the web with texts in many languages (Google, not published)",
    "yfcc15m": "YFCC-15M, photographs of Flickr with English texts",
    "cc12m": "Conceptual 12M, images of the web with their alternative texts",
}

# repositories of autoencoders and pipelines -> the data their cards name
_REPOSITORIES: dict[str, str] = {
    "stabilityai/sd-vae-ft-mse": "OpenImages, then LAION-Aesthetics and LAION-Humans, photographs and art of the web",
    "stabilityai/sd-vae-ft-ema": "OpenImages, then LAION-Aesthetics and LAION-Humans, photographs and art of the web",
    "compvis/stable-diffusion-v1-4": "LAION-2B and LAION-Aesthetics, photographs and art of the web",
    "runwayml/stable-diffusion-v1-5": "LAION-2B and LAION-Aesthetics, photographs and art of the web",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "LAION-2B and LAION-Aesthetics, photographs and art of the web",
    "stabilityai/stable-diffusion-2": "LAION-5B without what was judged unsafe, photographs and art of the web",
    "stabilityai/stable-diffusion-2-1": "LAION-5B without what was judged unsafe, photographs and art of the web",
}


def data_of_tag(tag: str) -> str:
    """What open_clip's weights of a tag (`laion2b_s34b_b88k`) were trained on; "" when that is not known here."""
    known = max((name for name in _TAGS if tag.startswith(name)), key=len, default=None)
    return _TAGS[known] if known else ""


def data_of_repository(name: str) -> str:
    """What a repository's model was trained on; "" when that is not known here."""
    return _REPOSITORIES.get(name.lower(), "")


def data_of_card(folder: Path) -> str:
    """The `datasets` of the model card (README.md with front matter) in a directory; "" when there are none."""
    try:
        text = (folder / _CARD).read_text(encoding="utf-8", errors="replace")[:100_000]
    except OSError:
        return ""
    head = _FRONT_MATTER.match(text)
    found = head and _DATASETS.search(head[1])
    if not found:
        return ""
    inline = (found["inline"] or "").strip()
    items = inline.strip("[]").split(",") if inline.startswith("[") else [inline]
    listed = [item.strip().lstrip("-") for item in (found["items"] or "").splitlines()]
    names = [name.strip().strip("'\"").strip() for name in (*items, *listed)]
    return ", ".join(name for name in names if name)[:_LONGEST]
