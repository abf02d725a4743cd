"""Recipes of strangers."""

from dataset_builder.recipe import RECIPES
from tests.fuzzing import fuzzing

CAMPAIGN = fuzzing(
    "recipe",
    "whatever a recipe holds, it is the same when written again, or refused by one line",
    lambda: [path.read_bytes() for path in sorted(RECIPES.glob("*.toml"))],
)
