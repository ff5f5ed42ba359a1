"""NSGA-II: a genetic algorithm that keeps the non-dominated architectures spread out along the front.

The parents of a generation are the best P of the last generation and its parents: by the rank of the front they lie on,
then by the crowding distance (the sum over objectives of the gap between a trial's two neighbours). A trial that keeps all
limits dominates one that does not; of two that do not, the one that exceeds them less (Deb et al. 2002, sections III, VI).
Children: uniform crossover of two parents that won tournaments, then each decision redrawn with probability `mutation`.
Carried out by `optuna.samplers.NSGAIISampler`.
Differs from the paper: a child equal to a finished trial is drawn again (up to `redraws` times), because in a finite space
copies would fill the population; trials that are equal in rank and distance are ordered at random.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial, Trial, TrialState

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.core.space import Arch
from netwright.search.store import Store
from netwright.search.strategies.role import Strategy


@dataclass(frozen=True)
class NSGA2(Strategy):
    """`population` is 100 in the paper, for 25,000 evaluations; the smaller default suits some hundred trials.

    `crossover` is the paper's; `swap` is the share of decisions taken from the second parent; `mutation` None means
    1 / number of decisions, the paper's value.
    """

    population: int = 12
    crossover: float = 0.9
    swap: float = 0.5
    mutation: float | None = None
    redraws: int = 20

    name: ClassVar[str] = "nsga2"
    paper: ClassVar[Paper] = Paper(
        key="deb2002nsga2",
        title="A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II",
        authors="Kalyanmoy Deb and Amrit Pratap and Sameer Agarwal and T. Meyarivan",
        venue="IEEE Transactions on Evolutionary Computation",
        year=2002,
        url="https://doi.org/10.1109/4235.996017",
    )

    def __post_init__(self) -> None:
        if self.population < 2:
            raise NetwrightError(f"NSGA-II needs a population of at least 2, got {self.population}.")
        for key in ("crossover", "swap", "mutation"):
            if (value := getattr(self, key)) is not None and not 0 <= value <= 1:
                raise NetwrightError(f"nsga2.{key} = {value} must lie in [0, 1].")

    def propose(self, store: Store, rng: random.Random) -> tuple[Arch, Trial]:
        return store.propose(_Sampler(self, store, rng))


class _Sampler(NSGAIISampler):
    """Optuna's sampler without copies and with ties in random order."""

    def __init__(self, method: NSGA2, store: Store, rng: random.Random):
        super().__init__(
            population_size=method.population,
            mutation_prob=method.mutation,
            crossover_prob=method.crossover,
            swapping_prob=method.swap,
            seed=rng.getrandbits(32),
        )
        self.redraws, self.order, self.distributions = method.redraws, rng, store.distributions

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: d for name, d in self.distributions.items() if not d.single()}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        self.get_trial_generation(study, trial)  # for a trial that is tried again too: nothing is drawn for it

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """By number: Optuna gives another order to the first caller than to the later ones, who read its cache."""
        return sorted(super().get_parent_population(study, generation), key=lambda t: t.number)

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """A generation in random order, each architecture once: the sort by rank and distance is stable."""
        found = {tuple(t.params[k] for k in self.distributions): t for t in super().get_population(study, generation)}
        population = list(found.values())
        self.order.shuffle(population)
        return population

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        known = {tuple(t.params[k] for k in search_space) for t in finished}
        child: dict[str, Any] = {}
        for _ in range(1 + self.redraws):
            child = super().sample_relative(study, trial, search_space)
            for name, d in search_space.items():
                if name not in child:  # chosen to mutate, or this is the first generation
                    child[name] = self.sample_independent(study, trial, name, d)
            if tuple(child[k] for k in search_space) not in known:
                break
        return child
