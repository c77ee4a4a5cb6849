"""The table of embeddings and spaces: what may be registered, and that rows name what is there."""

from dataclasses import replace

import pytest

from latent_assets.spaces import Space, embeddings, register, resolve, spaces


@pytest.mark.parametrize("name", ["clip", "vae"])
def test_a_row_names_what_is_there(name: str) -> None:
    row = embeddings()[name]
    settings = resolve(row.settings)
    assert set(row.decides) <= set(settings.model_fields)
    for reference in (row.files, row.load, row.check):
        assert reference is not None and callable(resolve(reference))


def test_registering_the_same_again_changes_nothing() -> None:
    before = embeddings(), spaces()
    register(embeddings()["clip"], spaces()["clip"], spaces()["joint"])
    assert (embeddings(), spaces()) == before


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (Space("hue", ("hue",), "cosine", "hue"), "`hue`, which is no registered embedding"),
        (Space("joint", ("clip", "vae"), "cosine", "both"), "`joint` is registered already"),
        (Space("three", ("clip", "vae"), "euclidean", "both", (1.0,)), "1 weights for 2 parts"),
    ],
)
def test_a_space_that_cannot_be_is_refused(space: Space, said: str) -> None:
    before = spaces()
    with pytest.raises(ValueError, match=said):
        register(None, space)
    assert spaces() == before


def test_features_without_a_whole_to_compare_with_are_refused() -> None:
    before = embeddings()
    for odd in (replace(before["clip"], name="x", features=("a", "b")), replace(before["clip"], name="x", features=())):
        with pytest.raises(ValueError, match="`x`: a feature is missing, or several have no `whole`"):
            register(odd)
    assert embeddings() == before
