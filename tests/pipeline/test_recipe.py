from pathlib import Path

import pytest

from netwright.core.errors import RecipeError
from netwright.pipeline.recipe import RunRecipe

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.stem)
def test_the_examples_are_valid(path):
    assert RunRecipe.load(path).name == path.stem


def test_defaults_stand_for_a_whole_run():
    recipe = RunRecipe()
    assert recipe.forms == ("float", "int8", "ternary", "binary", "spiking")
    assert RunRecipe.read(recipe.model_dump()) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serach]\ntrials = 3", "serach: no such key; did you mean search"),
        ("[search]\ntrails = 3", r"search.trails: no such key; did you mean trials"),
        ("[search]\ntrials = 0", "search.trials: .*greater than or equal to 1"),
        ("forms = ['int8']", "forms must contain 'float'"),
        ("forms = ['float', 'int4']", "forms.1: .*'int8'"),
        ("name = '../up'", "becomes a folder"),
        ("[train]\nlearning_rate = 1", "learning_rate is not a key"),
        ("[train]\nlr = -1", "lr = -1"),
        ("name = ", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        RunRecipe.load(path)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(RecipeError, match="netwright init"):
        RunRecipe.load(tmp_path / "none.toml")


def test_overrides_reach_any_depth(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("name = 'a'\n")
    changes = {"task.data": "x.npz", "seed": 3, "compress.binary.train": {"steps": 7}, "compress.binary.method": "biper"}
    recipe = RunRecipe.load(path, changes)
    assert (recipe.task.data, recipe.seed, recipe.compress.binary.train.steps) == ("x.npz", 3, 7)
