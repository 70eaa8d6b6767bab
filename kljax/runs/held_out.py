"""Looks at held-out prompts while a run trains: the figures that an evaluation of the same step has of the policy."""

from kljax.data.batches import PromptRows
from kljax.rewards.combination import Reward
from kljax.runs.evaluation import has_base, of_policy
from kljax.runs.looking import Look, Sequences, check_figures, look_at
from kljax.runs.restore import RestoredRun


class HeldOut:
    """The figures of one state after another, by one program. They follow from the state and the seeds alone.

    What other models write is made once, where it cannot change: they stay as they are, and the reward is all on the device
    (a Python function may ask for the step).
    """

    def __init__(self, prompts: PromptRows, reward: Reward):
        self._prompts, self._reward = prompts, reward
        self._look: Look | None = None
        self._known: dict[str, Sequences] = {}

    def figures(self, run: RestoredRun) -> dict[str, float]:
        """By the names of an evaluation. UserError where a reward fails, or a reward or a KL is not finite."""
        config = run.setup.config
        if self._look is None:
            self._look = look_at(run, self._prompts, config.evaluation, reward=self._reward, task=run.setup.task)
        others = {"reference": run.reference} | ({"base": run.base} if has_base(run) else {})
        found = {"policy": self._look(run.policy, tuple(others.values()), step=run.step)}
        stays = {"base"} | ({"reference"} if config.reference.refresh.kind == "never" else set())
        for name, params in others.items():
            if name not in self._known or name not in stays or self._reward.host is not None:
                self._known[name] = self._look(params, (run.policy,), step=run.step)
            found[name] = self._known[name]
        check_figures(run, found)
        return of_policy(config, found, self._prompts)
