"""Spaces in recipes: options of their own, what the forms refuse left out with the reason, and the chain end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from netwright.core.errors import NetwrightError, RecipeError, UnknownName
from netwright.pipeline import Chain, RunRecipe
from netwright.pipeline.spaces import SPACES, options, refused

SMALL = {
    "tiny": {"stages": 2, "blocks": ["conv", "gnconv"], "depths": [1, 1], "widths": [8], "kernels": [3], "expansions": [1, 2]},
    "nasbench201": {"width": 4, "depth": 1, "operations": ["none", "skip_connect", "nor_conv_1x1"]},
    "spikenas": {"width": 4, "hidden": 16, "cluster": 2, "operations": ["none", "low", "high"]},
    "spikformer": {"widths": [8, 16], "depths": [1, 1], "expansions": [1], "steps": 2},
    "meta-spikeformer": {"first": [4, 8], "widths": [8, 16], "depths": [1, 1], "expansions": [1], "kernels": [3], "steps": 2},
}


def recipe(space: str, *forms: str, **design) -> RunRecipe:
    budget = {"steps": 24, "evaluations": 1}
    return RunRecipe.read({
        "name": "small", "forms": ["float", *forms], "calibration": 64, "threads": 1, "task": {"limit": 256},
        "design": {"space": space, **SMALL[space], **design},
        "search": {"trials": 1, "population": 2, "supernet": budget}, "train": {**budget, "lr": 5e-3},
        "compress": {"ternary": {"method": "bitnet", "train": budget}}, "spike": {"steps": 4},
    })  # fmt: skip


def test_every_space_has_small_options_here():
    assert set(SMALL) == set(SPACES)


@pytest.mark.parametrize("name", SPACES)
def test_options_are_the_fields_of_the_space(name):
    made = RunRecipe.read({"design": {"space": name, **SMALL[name]}}).design.options()
    assert made.name == name and json.loads(json.dumps(made.facts())) == {
        **json.loads(json.dumps(SPACES[name]().facts())), **SMALL[name]
    }  # fmt: skip
    space = made.space((1, 8, 8), 10)
    assert 1 < space.size < SPACES[name]().space((1, 8, 8), 10).size
    assert recipe(name) == RunRecipe.read(recipe(name).model_dump())


@pytest.mark.parametrize(
    ("design", "error", "message"),
    [
        ({"space": "spikens"}, UnknownName, "space named 'spikens'. Did you mean 'spikenas'"),
        (
            {"space": "spikenas", "widht": 3},
            RecipeError,
            "design.widht: the space 'spikenas' has no such option; did you mean wid",
        ),
        (
            {"space": "spikenas", "stages": 3},
            RecipeError,
            "design.stages: the space 'spikenas' has no such option; did you mean",
        ),
        ({"space": "spikenas", "width": "many"}, RecipeError, "design.width: .*integer"),
        ({"space": "nasbench201", "operations": ["none", "low"]}, UnknownName, "operator of NAS-Bench-201 named 'low'"),
        ({"stages": 9}, NetwrightError, "1 to 6 stages, got 9"),
        ({"blocks": ["conv", "convnex"]}, UnknownName, "convnext"),
    ],
)
def test_mistakes_are_named(design, error, message):
    with pytest.raises(error, match=message):
        RunRecipe.read({"design": design}).design.options().space((1, 8, 8), 10)


def test_what_a_form_refuses_is_left_out_with_the_reason():
    assert refused(options("nasbench201", {}), ("float",)) == {} == refused(options("spikenas", {}), ("float", "int8", "spiking"))
    chain = Chain(recipe("nasbench201", "spiking", operations=["none", "avg_pool_3x3", "skip_connect"]), "unused")
    assert list(chain.refused) == ["avg_pool_3x3"] and "count_include_pad" in chain.refused["avg_pool_3x3"]
    assert all(d.values == ("none", "skip_connect") for d in chain.space.decisions.values())


@pytest.mark.parametrize("name", ["spikformer"])
def test_a_space_without_a_network_for_the_forms_is_refused(name):
    with pytest.raises(NetwrightError, match=r'No network of the space .* int8: .* Write forms = \["float"\]'):
        _ = Chain(recipe(name, "int8"), "unused").space


@pytest.mark.parametrize(
    ("name", "forms"),
    [("spikenas", ("int8",)), ("nasbench201", ("spiking",)), ("meta-spikeformer", ())],
)
def test_the_chain_runs_on_it(name, forms, tmp_path):
    """Search with shared weights, training, every form compiled and equal to PyTorch."""
    chain = Chain(recipe(name, *forms), tmp_path)
    x = chain.task.test.x[:32]
    for form in ("float", *forms):
        made = chain.form(form)
        with torch.no_grad():
            here = torch.cat([chain.torch_module(made)(part) for part in x.split(8)]).numpy()
        apart = np.abs(made.bundle.run(x.numpy()) - here)
        assert apart.max() == 0 if form != "float" else np.median(apart) < 1e-4
    assert len(chain.searched.trials) == 1 and chain.searched.chosen.arch.space == name


def test_spiking_transformers_share_weights_over_width_depth_and_kind():
    """The slice of the shared weights is the small network: same logits for the same batch."""
    from netwright.design import Supernet

    x = torch.randn(4, 1, 8, 8)
    for name in ("spikformer", "meta-spikeformer"):
        space = options(name, SMALL[name] | {"depths": [1, 2], "expansions": [1, 2]}).space((1, 8, 8), 10)
        supernet = Supernet(space, seed=0)
        for arch in (space.smallest(), space.largest()):
            assert torch.equal(supernet.call(arch, x), supernet.subnet(arch).train()(x))
        shared = sum(p.numel() for p in supernet.parameters())
        apart = sum(sum(p.numel() for p in space.fill(a).build().parameters()) for a in (space.smallest(), space.largest()))
        assert shared < apart + (0 if name == "spikformer" else shared)
