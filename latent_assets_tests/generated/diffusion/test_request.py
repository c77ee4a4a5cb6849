"""What may be asked for, and the sentence that says why something may not."""

from typing import Any

import pytest

from latent_assets.errors import ModelError, QueryError
from latent_assets.generated.diffusion.request import LARGEST_SEED, GenerationRequest, diffusion_model
from latent_assets.profile import DiffusionModel, load_profile

SPEC = DiffusionModel(model="somewhere", steps=17, guidance=4.5)


def test_the_profile_fills_what_is_not_said() -> None:
    request = GenerationRequest.of(SPEC, "  a red apple\r\non a table ")
    assert (request.prompt, request.steps, request.guidance, request.n) == ("a red apple\non a table", 17, 4.5, 1)
    assert request.negative is None and GenerationRequest.of(SPEC, "x", negative=" ").negative is None
    drawn = {GenerationRequest.of(SPEC, "x").seed for _ in range(20)}
    assert len(drawn) > 15 and max(drawn) < 2**32


def test_each_image_has_a_seed_of_its_own() -> None:
    request = GenerationRequest.of(SPEC, "x", seed=5, n=3, negative="y")
    assert [(each.seed, each.n, each.negative) for each in request.each()] == [(5, 1, "y"), (6, 1, "y"), (7, 1, "y")]
    assert GenerationRequest.of(SPEC, "x", seed=LARGEST_SEED).seed == 2**64 - 1


@pytest.mark.parametrize("prompt", ['<script>alert(1)</script> & "quotes"', "\N{RED APPLE} jablko červené", "a\tb\nc"])
def test_any_text_is_a_prompt(prompt: str) -> None:
    assert GenerationRequest.of(SPEC, prompt).prompt == prompt


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n "}, "prompt is empty"),
        ({"prompt": "x" * 100_000}, r"prompt has 100,000 characters, and at most 4,000"),
        ({"prompt": "a\x1b[31mred"}, r"control character \(U\+001B\) at position 1"),
        ({"prompt": "nul\0"}, r"U\+0000"),
        ({"prompt": "half \ud83d"}, r"U\+D83D"),
        ({"prompt": None}, "prompt is no text"),
        ({"negative": "y" * 4_001}, "negative prompt has 4,001 characters"),
        ({"negative": "\x07"}, r"negative prompt has a control character \(U\+0007\)"),
        ({"seed": -1}, r"seed = -1: a whole number from 0 to 18446744073709551615"),
        ({"seed": 2**64}, "seed = 18446744073709551616: a whole number"),
        ({"seed": 10**5_000}, "seed = a number of more than 40 digits"),
        ({"seed": 2**64 - 1, "n": 2}, "the last of 2 images would have a seed above"),
        ({"seed": 1.5}, "seed = 1.5"),
        ({"steps": 0}, "steps = 0: a whole number from 1 to 1000"),
        ({"steps": 1_001}, "steps = 1001"),
        ({"steps": True}, "steps = True"),
        ({"n": 0}, "n = 0: a whole number from 1 to 64"),
        ({"n": 65}, "n = 65"),
        ({"guidance": float("nan")}, "guidance = nan: a number from 0 to 100"),
        ({"guidance": -0.1}, "guidance = -0.1"),
        ({"guidance": float("inf")}, "guidance = inf"),
        ({"guidance": "7"}, "guidance = '7'"),
    ],
)
def test_what_is_not_possible_is_said_in_a_sentence(values: dict[str, Any], said: str) -> None:
    with pytest.raises(QueryError, match=said):
        GenerationRequest.of(SPEC, **{"prompt": "a red apple", **values})


def test_a_profile_without_a_model_says_what_to_add() -> None:
    profile = load_profile("folder")
    assert profile.models.diffusion is None
    with pytest.raises(ModelError, match=r"profile folder has no \[models\.diffusion\]: add that table"):
        diffusion_model(profile)
