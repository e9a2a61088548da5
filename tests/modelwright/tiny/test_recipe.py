"""The recipe's arithmetic."""

from __future__ import annotations

import pytest

from modelwright.tiny.recipe import FINISHING, FOUNDATION, MINIATURE, RECIPES, Recipe, Stage


def test_stages_follow_one_another() -> None:
    assert [MINIATURE.stage_at(step).length for step in (0, 9, 10, 19, 99)] == [32, 32, 64, 64, 64]
    assert MINIATURE.steps == 20
    assert MINIATURE.tokens == 10 * 4 * 32 + 10 * 2 * 64


def test_the_rate_warms_up_stays_and_falls() -> None:
    recipe = Recipe("r", 8, 1, 1, 1, 8, (Stage(100, 1, 8, FOUNDATION),), warmup_steps=10, decay_share=0.5, final_share=0.1)
    assert recipe.rate_factor(0) == pytest.approx(0.1)
    assert recipe.rate_factor(9) == recipe.rate_factor(50) == 1.0
    assert recipe.rate_factor(75) == pytest.approx(0.1 + 0.9 * 0.5)
    assert recipe.rate_factor(100) == pytest.approx(0.1)


def test_a_stage_with_its_own_rate_leaves_the_others_as_they_were() -> None:
    main = (Stage(60, 1, 8, FOUNDATION), Stage(40, 1, 16, FOUNDATION))
    plain = Recipe("r", 8, 1, 1, 1, 8, main, warmup_steps=10)
    longer = Recipe("r", 8, 1, 1, 1, 8, (*main, Stage(20, 1, 16, FOUNDATION, rate=0.5)), warmup_steps=10)
    assert [longer.rate_factor(step) for step in range(100)] == [plain.rate_factor(step) for step in range(100)]
    assert [longer.rate_factor(step) for step in (100, 110, 119)] == pytest.approx([0.5, 0.25, 0.025])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_ends_at_its_window_and_has_grouped_heads(recipe: Recipe) -> None:
    assert recipe.stages[-1].length == recipe.context == 512
    assert recipe.heads % recipe.kv_heads == 0 and recipe.kv_heads < recipe.heads
    assert recipe.hidden_size % recipe.heads == 0
    for stage in recipe.stages:
        assert sum(share for _, share in stage.mixture) == pytest.approx(1.0)
    assert dict(FINISHING)["text"] > 0
