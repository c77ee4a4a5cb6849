"""The inputs of each space: scaling of `joint`, choice of the vae feature."""

import numpy as np
import pytest

from latent_assets.projection.features import SpaceRecipe, best_feature, make_recipes, typical_square
from latent_assets.projection.neighbors import unit
from latent_assets.spaces import spaces
from latent_assets_tests.projection import synthetic


def mean_square(block: np.ndarray) -> float:
    """Mean squared distance over all ordered pairs, by the definition."""
    return float(((block[:, None].astype(np.float64) - block[None]) ** 2).sum(axis=2).mean())


def recipes(names: tuple[str, ...], clip: np.ndarray, vae: np.ndarray, weight: float) -> tuple[SpaceRecipe, ...]:
    return make_recipes([spaces()[name] for name in names], {"clip": clip, "vae": vae}, weight)


def test_clip_is_unit_vectors_by_cosine_and_vae_the_feature_by_l2() -> None:
    clip, vae = synthetic.clip_vectors(30)[0] * 3.0, synthetic.vae_columns(30)["pooled"]
    of_clip, of_vae = recipes(("clip", "vae"), clip, vae, 0.5)
    assert (of_clip.metric, of_vae.metric) == ("cosine", "euclidean")
    np.testing.assert_allclose(of_clip.features({"clip": clip, "vae": vae}), clip / 3.0, atol=1e-6)
    np.testing.assert_array_equal(of_vae.features({"clip": clip, "vae": vae}), vae.astype(np.float32))


def test_the_three_spaces_have_the_numbers_they_had_when_clip_and_vae_were_written_out() -> None:
    clip = synthetic.clip_vectors(60)[0].astype(np.float16)
    vae = (7.0 * synthetic.vae_columns(60)["pooled"]).astype(np.float16)
    of_clip, of_vae, joint = recipes(("clip", "vae", "joint"), clip, vae, 0.3)
    vectors = {"clip": clip, "vae": vae}
    assert of_clip.features(vectors).tobytes() == (unit(clip) * np.float32(1.0)).tobytes()
    assert of_vae.features(vectors).tobytes() == vae.astype(np.float32).tobytes()
    clip_scale = float(np.sqrt(0.3 / typical_square(unit(clip))))
    vae_scale = float(np.sqrt((1.0 - 0.3) / typical_square(vae)))
    both = np.hstack([unit(clip) * np.float32(clip_scale), np.asarray(vae, np.float32) * np.float32(vae_scale)])
    assert joint.features(vectors).tobytes() == both.tobytes()
    assert [recipe.metric for recipe in (of_clip, of_vae, joint)] == ["cosine", "euclidean", "euclidean"]


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_joint_blocks_have_the_share_the_profile_says(weight: float) -> None:
    clip, vae = synthetic.clip_vectors(80)[0], synthetic.vae_columns(80)["pooled"] * 40.0
    (recipe,) = recipes(("joint",), clip, vae, weight)
    features = recipe.features({"clip": clip, "vae": vae})
    assert mean_square(features[:, : clip.shape[1]]) == pytest.approx(weight, abs=1e-4)
    assert mean_square(features[:, clip.shape[1] :]) == pytest.approx(1.0 - weight, abs=1e-4)


def test_later_rows_are_scaled_by_the_fitted_rows() -> None:
    clip, vae = synthetic.clip_vectors(80)[0], synthetic.vae_columns(80)["pooled"]
    (recipe,) = recipes(("joint",), clip, vae, 0.5)
    whole = recipe.features({"clip": clip, "vae": vae})
    assert recipe.features({"clip": clip[3:5], "vae": vae[3:5]}).tobytes() == whole[3:5].tobytes()


def test_a_constant_block_does_not_divide_by_zero() -> None:
    clip = np.repeat(synthetic.clip_vectors(1)[0], 20, axis=0)
    (recipe,) = recipes(("joint",), clip, np.zeros((20, 4)), 0.5)
    assert np.isfinite(recipe.features({"clip": clip, "vae": np.zeros((20, 4))})).all()


def test_typical_square_is_the_mean_over_all_pairs() -> None:
    block = np.random.default_rng(0).normal(size=(50, 7)) * 3.0
    assert typical_square(block) == pytest.approx(mean_square(block))


def test_a_missing_block_is_refused() -> None:
    clip, vae = synthetic.clip_vectors(10)[0], synthetic.vae_columns(10)["pooled"]
    (recipe,) = recipes(("joint",), clip, vae, 0.5)
    with pytest.raises(ValueError, match="space joint needs the feature of the embedding vae"):
        recipe.features({"clip": clip})
    with pytest.raises(ValueError, match="`joint` needs the feature of the embedding `vae`"):
        make_recipes([spaces()["joint"]], {"clip": clip}, 0.5)


def test_the_better_vae_feature_is_taken_and_both_figures_reported() -> None:
    columns = synthetic.vae_columns(300)
    choice = best_feature(columns["latent"], {"pooled": columns["pooled"], "random": columns["random"]})
    assert choice.chosen == "pooled" and choice.recall["pooled"] > choice.recall["random"] + 0.1
    # fine texture without coarse colour: pooling loses it, random axes keep some of it
    fine = np.random.default_rng(1).normal(size=(300, 4, 4, 4))
    latent = np.kron(fine, np.array([[1, -1], [-1, 1]])).reshape(300, 256)
    axes = np.random.default_rng(2).normal(size=(256, 16))
    choice = best_feature(latent, {"pooled": np.zeros((300, 16)), "random": latent @ axes})
    assert choice.chosen == "random" and choice.recall["random"] > choice.recall["pooled"]
    assert choice.probe_rows == 300


def test_a_tie_goes_to_pooled() -> None:
    latent = synthetic.vae_columns(50)["latent"]
    assert best_feature(latent, {"pooled": latent, "random": latent}).chosen == "pooled"
