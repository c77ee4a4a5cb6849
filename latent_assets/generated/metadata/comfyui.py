"""What a ComfyUI graph says of its image: the prompts and parameters of the sampler that the saved image comes from.

The graph is the one that ComfyUI runs and stores as `prompt`: nodes by id, each with `class_type` and `inputs`, an
input being a value or a link `[node id, output]`. Nodes are known by the names of their inputs rather than by their
class, so that those of extensions are read too. Graphs are hostile: cycles, links to nowhere, texts that double at
each node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from latent_assets.generated.metadata.generation import PROMPT_LIMIT

_DEEPEST = 100
_MOST_PASSES = 20
_SIDES = {"positive": ("positive", "conditioning", "cond1"), "negative": ("negative",)}
_SEEDS = ("seed", "noise_seed")
_MODELS = ("ckpt_name", "unet_name", "model_name", "model_path", "model")
# inputs that hold the text to encode: text, text_g, text1, string_a, clip_l, ...
_TEXT = re.compile(r"(text|string|prompt|value|populated_text)_?[a-h0-9]?|text_[gl]|clip_[lg]|t5xxl|llama")
_NOT_TEXT = frozenset({"clip", "vae", "model"})
_DELIMITERS = ("delimiter", "separator")
_LATENTS = ("latent_image", "latent", "samples", "images", "image", "pixels")


def is_graph(value: object) -> bool:
    """Whether a JSON value is a graph: any node of it has a class and inputs."""
    return isinstance(value, dict) and any(_is_node(node) for node in value.values())


def read_graph(graph: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Generation`, as the graph has them; empty when it has no sampler.

    Of several samplers in a row (a second pass, a refiner, a repair of faces) the first one counts: what comes later
    works on its image. Where the latents of several meet, it is the one in which they meet. Texts that nodes change in
    other ways than by joining are given as they were before.
    """
    return _Graph(graph).generation()


def _is_node(node: object) -> bool:
    return isinstance(node, dict) and isinstance(node.get("inputs"), dict) and isinstance(node.get("class_type"), str)


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and isinstance(value[1], int)


class _Graph:
    def __init__(self, graph: Mapping[str, Any]) -> None:
        nodes = {key: node for key, node in graph.items() if _is_node(node)}
        self._inputs: dict[str, dict[str, Any]] = {key: node["inputs"] for key, node in nodes.items()}
        self._classes: dict[str, str] = {key: node["class_type"] for key, node in nodes.items()}
        self._texts: dict[tuple[str, str], str] = {}

    def generation(self) -> dict[str, Any]:
        sampler = self._first_sampler()
        if sampler is None:
            return {}
        inputs = self._inputs[sampler]
        guider = self._linked(inputs.get("guider")) or sampler
        sides = {side: self._link(guider, *names) for side, names in _SIDES.items()}
        latent = [inputs.get(name) for name in _LATENTS]
        return {
            "prompt": self._text(sides["positive"], "positive"),
            "negative_prompt": self._text(sides["negative"], "negative"),
            "seed": self._seek([[sampler, 0]], _SEEDS, ("noise",)),
            "steps": self._seek([[sampler, 0]], ("steps",), ("sigmas",)),
            "guidance": self._seek([[guider, 0]], ("cfg", "cfg_conds"), ()),
            "distilled": self._seek([sides["positive"]], ("guidance",), _SIDES["positive"]),
            "sampler": self._seek([[sampler, 0]], ("sampler_name",), ("sampler",))
            or self._class(inputs.get("sampler")),
            "model": self._seek([[guider, 0]], _MODELS, ("model", "model1", "guider")),
            "width": self._seek(latent, ("width",), _LATENTS),
            "height": self._seek(latent, ("height",), _LATENTS),
        }

    # -- the sampler ---------------------------------------------------------------------------------------

    def _first_sampler(self) -> str | None:
        linked = {node for inputs in self._inputs.values() for node in self._links(inputs)}
        ends = [node for node in self._inputs if node not in linked]
        saving = [node for node in ends if "filename_prefix" in self._inputs[node] or "Save" in self._classes[node]]
        found = self._samplers_above(saving or ends or list(self._inputs))
        for _ in range(_MOST_PASSES if found else 0):
            inputs = self._inputs[found[0]]
            above = self._samplers_above([node for name in _LATENTS if (node := self._linked(inputs.get(name)))])
            if len(above) != 1:
                break
            found = above
        return found[0] if found else None

    def _samplers_above(self, nodes: list[str]) -> list[str]:
        """The nearest samplers on the way from nodes to what they are made of, themselves included."""
        found: list[str] = []
        waiting, seen = list(nodes), set(nodes)
        for node in waiting:
            if self._samples(node):
                found.append(node)
                continue
            above = [other for other in self._links(self._inputs[node]) if other not in seen]
            seen.update(above)
            waiting += dict.fromkeys(above)
        return found

    def _samples(self, node: str) -> bool:
        inputs = self._inputs[node]
        return ("positive" in inputs or "guider" in inputs) and any(
            name in inputs for name in (*_SEEDS, "noise", "steps", "sigmas")
        )

    # -- values --------------------------------------------------------------------------------------------

    def _links(self, inputs: Mapping[str, Any]) -> Iterator[str]:
        return (node for value in inputs.values() if (node := self._linked(value)))

    def _linked(self, value: object) -> str | None:
        """The node that an input is linked to, None for a value or a link to nowhere."""
        if isinstance(value, list) and _is_link(value) and str(value[0]) in self._inputs:
            return str(value[0])
        return None

    def _link(self, node: str, *names: str) -> object:
        return next((self._inputs[node][name] for name in names if name in self._inputs[node]), None)

    def _class(self, value: object) -> str | None:
        node = self._linked(value)
        return self._classes[node] if node else None

    def _seek(self, starts: list[Any], names: tuple[str, ...], through: tuple[str, ...]) -> object:
        """The first value of one of `names`, nearest first, going up from links through the inputs `through`.

        A node with none of these inputs and a single link hands on what it gets.
        """
        waiting = [node for start in starts if (node := self._linked(start))]
        seen = set(waiting)
        for node in waiting:
            inputs = self._inputs[node]
            for name in names:
                value = inputs.get(name)
                if (
                    not (name in through and isinstance(value, list))
                    and (value := self._value(value, name)) is not None
                ):
                    return value
            above = [linked for name in through if (linked := self._linked(inputs.get(name)))]
            if not above and not any(name in inputs for name in through):
                links = list(self._links(inputs))
                above = links if len(links) == 1 and len(inputs) == 1 else []
            above = [other for other in above if other not in seen]
            seen.update(above)
            waiting += above
        return None

    def _value(self, value: object, name: str) -> object:
        """An input's value, followed through nodes that hold one: `value`, the same name, or their only input."""
        keys = (name, "value", "number", *(_SEEDS if name in _SEEDS else ()))
        seen: set[str] = set()
        while isinstance(value, list):
            node = self._linked(value)
            if node is None or node in seen:
                return None
            seen.add(node)
            inputs = self._inputs[node]
            only = tuple(inputs) if len(inputs) == 1 else ()
            value = next((inputs[key] for key in (*keys, *only) if key in inputs), None)
        return None if isinstance(value, dict) else value

    # -- texts ---------------------------------------------------------------------------------------------

    def _text(self, value: object, side: str, depth: int = 0) -> str:
        """The text of a link to an encoder, a conditioning or a node of texts; a text itself; else nothing."""
        if isinstance(value, str):
            return value[:PROMPT_LIMIT]
        node = self._linked(value)
        if node is None or depth > _DEEPEST or self._classes[node] == "ConditioningZeroOut":
            return ""
        if (node, side) not in self._texts:
            self._texts[node, side] = ""  # of a node that is met again on the way from itself
            self._texts[node, side] = self._joined(node, side, depth)[:PROMPT_LIMIT]
        return self._texts[node, side]

    def _joined(self, node: str, side: str, depth: int) -> str:
        inputs = self._inputs[node]
        other = "negative" if side == "positive" else "positive"
        names = [name for name in inputs if _TEXT.fullmatch(name)] or [
            name for name in inputs if side in name or ("cond" in name and isinstance(inputs[name], list))
        ]
        if any(side in name for name in inputs) and any(other in name for name in inputs):
            names = [name for name in inputs if side in name]
        if not names and len(inputs) == 1:
            names = list(inputs)
        texts = [self._text(inputs[name], side, depth + 1) for name in names if name not in _NOT_TEXT]
        delimiter = next((inputs[name] for name in _DELIMITERS if isinstance(inputs.get(name), str)), None)
        if delimiter is not None:
            return str(delimiter).join(texts)
        return "\n".join(dict.fromkeys(text.strip() for text in texts if text.strip()))
