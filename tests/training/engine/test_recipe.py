"""Recipes: what ships is valid, what does not fit is one line that names the key."""

from importlib import import_module
from typing import get_args

import pytest
from myna.errors import InputError, UsageError
from myna.training.engine.recipe import SHIPPED, find_recipe, load_recipe, read_key
from myna.training.engine.trainer_recipe import TrainerRecipe
from myna.training.models.codec_recipe import RECIPES, CodecRecipe, EncodecRecipe, weight_at
from myna.training.train import TRAINERS

MINIMAL = "output: out\nmax_steps: 5\ndata: {corpus: c}\n"


def schemas(base: type[TrainerRecipe]) -> list[type[TrainerRecipe]]:
    """Those of the trainers that are imported."""
    own = [base] if "kind" in base.model_fields else []
    return [*own, *(one for child in base.__subclasses__() for one in schemas(child))]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*-24k*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    kind = {"myna": "codec"}.get(path.stem.split("-")[0], path.stem.split("-")[0])
    recipe = load_recipe(path, RECIPES[kind])
    assert recipe.kind == kind
    assert recipe.model.name.startswith(path.stem.split("-")[0])


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("myna-[!2]*.yaml")), ids=lambda path: path.stem)
def test_every_other_recipe_names_a_trainer_and_keys_that_it_has(path):
    kind = read_key(path, "kind", "codec")
    import_module(f"myna.training.models.{TRAINERS[kind]}")
    (schema,) = [
        one for one in schemas(TrainerRecipe) if get_args(one.model_fields["kind"].annotation) == (kind,)
    ]
    assert load_recipe(path, schema).output.name.startswith("myna-")


def test_a_shipped_recipe_is_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("myna-24k") == find_recipe("recipes/myna-24k.yaml") == SHIPPED / "myna-24k.yaml"
    with pytest.raises(UsageError, match=r"recipe nothing is not there; give .* myna-24k-tiny"):
        find_recipe("nothing")


def test_include_and_overrides_change_only_what_they_name(tmp_path):
    (tmp_path / "base.yaml").write_text(MINIMAL + "optimizer: {lr: 0.5, clip: 7}\n")
    (tmp_path / "mine.yaml").write_text("include: base.yaml\noptimizer: {lr: 0.25}\n")
    recipe = load_recipe(tmp_path / "mine.yaml", CodecRecipe, ["data.batch_size=3", "model.width=32"])
    assert (recipe.optimizer.lr, recipe.optimizer.clip) == (0.25, 7)
    assert (recipe.data.batch_size, recipe.model.width, recipe.model.n_codebooks) == (3, 32, 8)
    assert recipe.max_steps == 5


def test_keys_of_nested_options_are_known_too(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL + "kind: encodec\nmodel: {seanet: {ratio: [2, 2]}}")
    with pytest.raises(InputError, match=r"model: unknown key ratio \(known: .*ratios"):
        load_recipe(path, EncodecRecipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "learning_rate: 1", r"unknown key learning_rate \(known here: .*optimizer"),
        (MINIMAL + "optimizer: {rate: 1}", r"unknown key optimizer.rate \(known here: .*lr"),
        (MINIMAL + "model: {widht: 1}", r"model: unknown key widht \(known: .*width"),
        (MINIMAL + "spectral: {windows: [1]}", "spectral: unknown key windows"),
        (MINIMAL + "optimizer: {lr: fast}", "optimizer.lr: .*valid number.*'fast'"),
        (MINIMAL + "losses: {mell: 1}", "losses: unknown loss mell"),
        (MINIMAL + "phases: {adversarial_from: 5}", "discriminators names none"),
        (MINIMAL + "data: {corpus: c, augment: {speed: [2, 1]}}", "speed must be a range"),
        ("output: out\ndata: {corpus: c}", "set max_steps or max_minutes"),
        ("output: out\nmax_steps: 1", "key data is missing"),
        ("a: [1", "line 1 is not YAML|is not YAML"),
        ("just words", "must be a list of `key: value` lines"),
        ("include: missing.yaml", "cannot read recipe"),
        ("include: recipe.yaml", "includes itself"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(path, CodecRecipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_steps", "not of the form key=value"),
        ("max_steps=many", "max_steps: .*'many'"),
        ("data.nothing=1", "unknown key data.nothing"),
        ("data=[", "not a YAML value"),
    ],
)
def test_overrides_that_do_not_fit(tmp_path, override, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    with pytest.raises(UsageError, match=message):
        load_recipe(path, CodecRecipe, [override])


def test_loss_weights_move_along_their_points():
    points = [(100, 2.0), (200, 1.0)]
    assert [weight_at(points, step) for step in (0, 100, 150, 200, 999)] == [2.0, 2.0, 1.5, 1.0, 1.0]
    assert weight_at(0.5, 7) == 0.5
