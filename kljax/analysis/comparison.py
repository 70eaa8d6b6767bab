"""Two models on the same completions: a divergence of their next-token distributions in every state, exactly.

KL(pi‖rho) summed over the states of completions that *pi* has sampled is, in the mean, the KL of the sequences (the chain
rule); KL(rho‖pi) is on completions of *rho*. On any others such a sum is just that. A comparison says which it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from kljax.analysis.chosen import Chosen, choose
from kljax.analysis.colours import TokenView
from kljax.analysis.completions import Completions
from kljax.analysis.policies import Policy, first, joined, parts_of, scoring_temperature
from kljax.analysis.prompting import Prompting, listed
from kljax.errors import UserError, did_you_mean
from kljax.models.scoring import score
from kljax.runs.intervals import LEVEL, Estimate, clustered, numbered
from kljax.types import Params, Rollout, Scores

if TYPE_CHECKING:
    import pandas as pd

WHOSE = {"reverse_kl": 0, "forward_kl": 1}
"""Whose samples, of policy and reference, make the sum over a sequence its KL."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """A divergence in each state of some completions, [B, T] in nats, and the log-probs of the tokens that follow.

    Values under padding are arbitrary, and nothing here shows them. Standard errors are over distinct prompts, whose
    completions may depend on one another; over completions where there is one prompt only. NaN where there is one thing only.
    Log-probs are of the whole distributions, also where the divergence is of one that top_k and top_p have cut.
    """

    policy: str
    reference: str
    identities: tuple[str, str]  # of both
    of: Completions
    divergence: Chosen
    temperature: float
    scores: Scores

    @property
    def mask(self) -> Bool[np.ndarray, "B T"]:
        """True at the tokens of each completion."""
        return np.asarray(self.of.rollout.mask)

    @property
    def values(self) -> Float[np.ndarray, "B T"]:
        """The divergence in the state before each token, nats (0 under padding)."""
        return np.where(self.mask, np.asarray(self.scores.divergence, np.float64), 0.0)

    @property
    def log_ratio(self) -> Float[np.ndarray, "B T"]:
        """log pi − log rho of each token, nats (0 under padding): k1, an estimate of KL(pi‖rho) on whole samples of pi."""
        logp, ref_logp = (np.asarray(x, np.float64) for x in (self.scores.logp, self.scores.ref_logp))
        return np.where(self.mask, logp, 0.0) - np.where(self.mask, ref_logp, 0.0)

    @property
    def per_sequence(self) -> Estimate:
        """The mean over completions of the sum over their states, nats per sequence."""
        return self._mean(self.values.sum(axis=1), np.ones(len(self.mask)))

    @property
    def per_token(self) -> Estimate:
        """The mean over all states, nats per token."""
        return self._mean(self.values.sum(axis=1), self.mask.sum(axis=1).astype(np.float64))

    @property
    def is_sequence_kl(self) -> bool:
        """Whether `per_sequence` estimates the KL of the two distributions over sequences, without bias."""
        drawn, owner = self.of.drawn, WHOSE.get(self.divergence.name)
        if drawn is None or owner is None or not drawn.temperature or drawn.temperature != self.temperature:
            return False
        return drawn.identity == self.identities[owner]

    def by_token(self, of: str = "divergence") -> "TokenView":
        """The tokens beside their nats: coloured text in a notebook and on a terminal. `of`: divergence or log_ratio."""
        if of not in ("divergence", "log_ratio"):
            near = did_you_mean(str(of), ("divergence", "log_ratio"))
            raise UserError(f"of: got {of!r}, expected divergence or log_ratio.{near}")
        values = self.values if of == "divergence" else self.log_ratio
        shown = [row[mask] for row, mask in zip(values, self.mask, strict=True)]
        name = f"{self.divergence.label}_tok" if of == "divergence" else "log_ratio"
        return TokenView(f"{name} of {self.policy} and {self.reference}", self.of.prompts, self.of.tokens, shown, self.frame())

    def frame(self) -> "pd.DataFrame":
        """One row a token: which completion, position (0 is its first token), token, and what both models say there, nats."""
        import pandas as pd

        rows, positions = np.nonzero(self.mask)
        columns: dict[str, Any] = {"completion": rows, "position": positions}
        columns["token"] = [piece for row in self.of.tokens for piece in row]
        columns["token_id"] = np.asarray(self.of.rollout.completion)[self.mask]
        columns["logp"], columns["ref_logp"] = (np.asarray(x)[self.mask] for x in (self.scores.logp, self.scores.ref_logp))
        columns["log_ratio"] = self.log_ratio[self.mask]
        columns[f"{self.divergence.label}_tok"] = self.values[self.mask]
        columns["entropy"] = np.asarray(self.scores.entropy)[self.mask]
        return pd.DataFrame(columns)

    def by_position(self) -> "pd.DataFrame":
        """By position in the completion: the mean over those that reach it, its standard error, and how many they are.

        Of several prompts, a position that those of one alone reach has no standard error (NaN).
        """
        import pandas as pd

        label, found = f"{self.divergence.label}_tok", []
        for position in range(int(self.mask.sum(axis=1).max())):
            there = self.mask[:, position]
            estimate = self._mean(self.values[there, position], np.ones(there.sum()), there)
            found.append({label: estimate.mean, f"{label}_se": estimate.se, "completions": int(there.sum())})
        return pd.DataFrame(found).rename_axis("position")

    def by_sequence(self) -> "pd.DataFrame":
        """One row a completion: its divergence summed over tokens and by k1 (the log-ratio), nats per sequence; its tokens."""
        columns = {f"{self.divergence.label}_seq": self.values.sum(axis=1), "reverse_k1_seq": self.log_ratio.sum(axis=1)}
        return self.of.frame().assign(**columns)

    def by_prompt(self) -> "pd.DataFrame":
        """One row a distinct prompt: the means of its completions."""
        frame, label = self.by_sequence(), f"{self.divergence.label}_seq"
        means = dict.fromkeys(("tokens", "logp", label, "reverse_k1_seq"), "mean")
        grouped = frame.assign(completions=frame["text"]).groupby(self._groups(), sort=False)
        return grouped.agg({"prompt": "first", "completions": "size", **means}).reset_index(drop=True)

    def _groups(self) -> Int[np.ndarray, "B"]:
        rollout = self.of.rollout
        width = rollout.prompt_mask.shape[1]
        prompts = zip(np.asarray(rollout.tokens)[:, :width], np.asarray(rollout.prompt_mask), strict=True)
        return numbered([row[mask].tobytes() for row, mask in prompts])

    def _mean(self, values: np.ndarray, weights: np.ndarray, chosen: Any = slice(None)) -> Estimate:
        every = self._groups()
        groups = np.arange(len(every)) if every.max() == 0 else every
        with np.errstate(invalid="ignore"):  # a divergence can be infinite
            return clustered(values, weights, numbered(groups[chosen].tolist()))

    def _what_it_is(self) -> str:
        drawn, owner = self.of.drawn, WHOSE.get(self.divergence.name)
        if self.is_sequence_kl:
            cut = "" if self.divergence.is_whole else ", of the model as top_k and top_p cut it (log-probs are uncut)"
            return f"the KL of the sequences{cut}"
        states = "given completions" if drawn is None else f"completions {drawn}"
        its = "" if owner is None else f"; the KL of the sequences is on samples of {('pi', 'rho')[owner]} at this temperature"
        return f"summed over the states of {states}{its}"

    def __repr__(self) -> str:
        groups, label = len(set(self._groups().tolist())), self.divergence.label
        some = f"{groups} distinct prompts" if groups > 1 else f"{len(self.of)} completions of one prompt"
        telling = groups > 1 or (self.of.drawn is not None and len(self.of) > 1)  # chosen texts are no sample of anything
        errors = f", ± is a {LEVEL:.0%} interval over {some}" if telling else ""
        sequence, token = (_spelled(each, telling) for each in (self.per_sequence, self.per_token))
        return (
            f"pi = {self.policy}, rho = {self.reference}, temperature {self.temperature:g}\n"
            f"  {label}_seq {sequence} nats per sequence: {self._what_it_is()}\n"
            f"  {label}_tok {token} nats per token; completions: {len(self.of)}{errors}"
        )


def _spelled(estimate: Estimate, telling: bool) -> str:
    return f"{estimate.mean:.4g}" + (f" ± {estimate.half_width:.2g}" if telling and np.isfinite(estimate.half_width) else "")


def compare(
    policy: Policy,
    reference: Policy,
    of: Completions | str | Iterable[str],
    *,
    divergence: str = "reverse_kl",
    temperature: float | None = None,
    **parameters: float,
) -> Comparison:
    """Compare two models in every state of some completions, over the whole vocabulary.

    Args:
        policy: pi, the first argument of every divergence.
        reference: rho, of the same tokenizer; it may be of another architecture.
        of: completions of `sample` or `score` (a prompt of yours with its completion: `policy.score(prompt, completion)`), or
            texts, which are scored from the beginning token on.
        divergence: a row of kljax.kl.divergences.DIVERGENCES, with its `parameters`, such as divergence="renyi", alpha=2.
        temperature: divides the logits of both; None: that at which the completions were sampled or scored (1 where greedily);
            of texts the policy's.

    Raises:
        UserError: where the tokenizers differ, the completions are of another one, or are longer than one of the models reads.
    """
    for name, model in (("policy", policy), ("reference", reference)):
        if not isinstance(model, Policy):
            raise UserError(f"{name}: got {model!r}, expected a Policy, as of load_run(…).policy() or load_model(…).")
    if not isinstance(of, Completions):
        of = _scored(policy, of, temperature)
    _check_alike(policy, reference, of)
    own = scoring_temperature(of.temperature if temperature is None else temperature)
    chosen = choose(divergence, parameters, of.drawn, own, (policy.identity, reference.identity))
    graphdefs = policy.architecture.graphdef, reference.architecture.graphdef
    both, parts = (policy.params, reference.params), []
    for part in parts_of(of.rollout, of.samples):
        parts.append(first(_scores(graphdefs, both, part.rollout, of.samples, own, chosen), part.count))
    names, identities = [policy.name, reference.name], (policy.identity, reference.identity)
    if names[0] == names[1] and identities[0] != identities[1]:
        names = [f"{name} [{identity}]" for name, identity in zip(names, identities, strict=True)]
    return Comparison(names[0], names[1], identities, of, chosen, own, joined(parts))


def _scored(policy: Policy, of: Any, temperature: float | None) -> Completions:
    """Texts of the user's, in no chat."""
    way_out = "; of prompts with their completions: policy.score(prompts, completions, ends=True)"
    if isinstance(of, list) and any(isinstance(one, Completions) for one in of):
        raise UserError("of: got a list of Completions, expected one of them.")
    if isinstance(of, tuple) or not (isinstance(of, str) or all(isinstance(one, str) for one in listed(of, "of"))):
        raise UserError(f"of: got {of!r:.80}, expected completions, a text or a list of texts{way_out}.")
    return replace(policy, prompting=Prompting(policy.tokenizer)).score("", of, temperature=temperature)


@partial(jax.jit, static_argnames=("graphdefs", "samples", "temperature", "chosen"))
def _scores(
    graphdefs: tuple[nnx.GraphDef, nnx.GraphDef],
    params: tuple[Params, Params],
    rollout: Rollout,
    samples: int,
    temperature: float,
    chosen: Chosen,
) -> Scores:
    policy, reference = (nnx.merge(graphdef, each) for graphdef, each in zip(graphdefs, params, strict=True))
    return score(policy, reference, rollout, samples, temperature, chosen.function)


def _check_alike(policy: Policy, reference: Policy, of: Completions) -> None:
    """Refuse models that mean something else by a token, or have another number of them."""
    for name, tokenizer in ((reference.name, reference.tokenizer), ("the completions", of.tokenizer)):
        if tokenizer is policy.tokenizer:
            continue
        ours, theirs = policy.tokenizer.get_vocab(), tokenizer.get_vocab()
        if ours != theirs:
            token = next(iter({token for token, _ in ours.items() ^ theirs.items()}))
            raise UserError(
                f"compare: {policy.name} and {name} have different tokenizers: {token!r} is token {ours.get(token)} of "
                f"the one, {theirs.get(token)} of the other; expected models of the same tokenizer."
            )
    prompts, written = (np.asarray(mask).sum(axis=1) for mask in (of.rollout.prompt_mask, of.rollout.mask))
    row = int(np.argmax(prompts + written))
    for model in (policy, reference):
        model.check_context(int(prompts[row]), int(written[row]))
    sizes = [model.params["embed"]["embedding"].shape[0] for model in (policy, reference)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"compare: {policy.name} has logits for {sizes[0]} tokens, {reference.name} for {sizes[1]}; expected as many."
        )
