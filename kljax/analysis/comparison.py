"""Two models on the same completions: a divergence of their next-token distributions in every state, exactly.

KL(pi‖rho) summed over the states of completions that *pi* has sampled is, in the mean, the KL of the sequences (the chain
rule); KL(rho‖pi) is on completions of *rho*. On any others such a sum is just that. A comparison says which it is.
"""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from kljax.analysis.colours import TokenView
from kljax.analysis.completions import Completions
from kljax.analysis.policies import Policy, first, joined, parts_of, plain
from kljax.analysis.prompting import Prompting
from kljax.config.base import AboveZero, strict
from kljax.config.validation import validate
from kljax.errors import UserError, did_you_mean
from kljax.kl.divergences import DIVERGENCES, Divergence
from kljax.models.scoring import score
from kljax.models.truncated import reverse_kl_of
from kljax.runs.intervals import Estimate, clustered, numbered
from kljax.types import Params, Rollout, Scores

if TYPE_CHECKING:
    import pandas as pd

OF_ITS_OWN = {"reverse_kl": "the policy", "forward_kl": "the reference"}
"""Whose samples make the sum over a sequence its KL."""


@strict
class _Temperature:
    temperature: AboveZero


@dataclass(frozen=True)
class Chosen:
    """A divergence by name, with its parameters; where a sampler has cut the policy, its reverse KL is that of what is left."""

    name: str
    parameters: tuple[tuple[str, float], ...] = ()
    top_k: int = 0
    top_p: float = 1.0

    @property
    def label(self) -> str:
        """Its name in metrics: reverse_exact, jeffreys_exact, renyi(alpha=2)_exact."""
        given = ", ".join(f"{name}={value:g}" for name, value in self.parameters)
        return self.name.removesuffix("_kl") + (f"({given})" if given else "") + "_exact"

    @property
    def function(self) -> Divergence:
        """(logits, ref_logits) → nats."""
        if self.name == "reverse_kl":
            return reverse_kl_of(self.top_k, self.top_p)
        return partial(DIVERGENCES[self.name], **dict(self.parameters))


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """A divergence in each state of some completions, [B, T] in nats, and the log-probs of the tokens that follow.

    Values under padding are arbitrary, and nothing here shows them. Standard errors are over distinct prompts, whose
    completions may depend on one another; over completions where there is one prompt only. NaN where there is one thing only.
    """

    policy: str
    reference: str
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
        """log pi − log rho of each token, nats (0 under padding): of samples of pi it estimates KL(pi‖rho)."""
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
        drawn = self.of.drawn
        if drawn is None or not drawn.temperature or drawn.temperature != self.temperature:
            return False
        if self.divergence.name == "forward_kl":
            return drawn.by == self.reference and drawn.is_whole
        return self.divergence.name == "reverse_kl" and drawn.by == self.policy

    def by_token(self, of: str = "divergence") -> "TokenView":
        """The tokens beside their nats: coloured text in a notebook and on a terminal. `of`: divergence or log_ratio."""
        if of not in ("divergence", "log_ratio"):
            raise UserError(f"of: got {of!r}, expected divergence or log_ratio.{did_you_mean(of, ('divergence', 'log_ratio'))}")
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
        """By position in the completion: the mean over those that reach it, its standard error, and how many they are."""
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
        groups = numbered(self._groups()[chosen].tolist())
        return clustered(values, weights, np.arange(len(groups)) if groups.max() == 0 else groups)

    def _what_it_is(self) -> str:
        drawn, owner = self.of.drawn, OF_ITS_OWN.get(self.divergence.name)
        if self.is_sequence_kl:
            cut = "" if drawn.is_whole else ", of the policy as top_k and top_p cut it"  # pyright: ignore
            return f"the KL of the sequences{cut}"
        states = "given completions" if drawn is None else f"completions {drawn}"
        more = f"; the KL of the sequences is on samples of {owner} at this temperature" if owner else ""
        return f"summed over the states of {states}{more}"

    def __repr__(self) -> str:
        groups, label = len(set(self._groups().tolist())), self.divergence.label
        some = f"{groups} distinct prompts" if groups > 1 else f"{len(self.of)} completions of one prompt"
        errors = f", standard errors over {some}" if len(self.of) > 1 else ""
        return (
            f"pi = {self.policy}, rho = {self.reference}, temperature {self.temperature:g}\n"
            f"  {label}_seq {_spelled(self.per_sequence)} nats per sequence: {self._what_it_is()}\n"
            f"  {label}_tok {_spelled(self.per_token)} nats per token; completions: {len(self.of)}{errors}"
        )


def _spelled(estimate: Estimate) -> str:
    return f"{estimate.mean:.4g}" + (f" ± {estimate.se:.2g}" if np.isfinite(estimate.se) else "")


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
        of: completions of `sample` or `score`, or texts, which are scored from the beginning token on.
        divergence: a row of kljax.kl.divergences.DIVERGENCES, with its `parameters`, such as divergence="renyi", alpha=2.
        temperature: divides the logits of both; None: that at which the completions were sampled (1 where greedily).

    Raises:
        UserError: where the tokenizers differ, or the completions are of another one.
    """
    if not isinstance(of, Completions):
        of = replace(policy, prompting=Prompting(policy.tokenizer)).score("", of, temperature=temperature)  # in no chat
    _check_alike(policy, reference, of)
    own = of.temperature if temperature is None else plain(temperature)
    own = validate({"temperature": own}, _Temperature).temperature
    chosen = _chosen(divergence, parameters, of, own)
    graphdefs = policy.architecture.graphdef, reference.architecture.graphdef
    both, parts = (policy.params, reference.params), []
    for part in parts_of(of.rollout, of.samples):
        parts.append(first(_scores(graphdefs, both, part.rollout, of.samples, own, chosen), part.count))
    return Comparison(policy.name, reference.name, of, chosen, own, joined(parts))


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


def _chosen(name: str, parameters: dict[str, float], of: Completions, temperature: float) -> Chosen:
    if name not in DIVERGENCES:
        raise UserError(
            f"divergence: got {name!r}, expected one of {', '.join(DIVERGENCES)}.{did_you_mean(str(name), DIVERGENCES)}"
        )
    known = dict(list(inspect.signature(DIVERGENCES[name]).parameters.items())[2:])
    for given in parameters.keys() - known.keys():
        expected = ", ".join(known) or "none"
        raise UserError(f"{given}: the divergence {name} has no such parameter, expected {expected}.")
    for needed, about in known.items():
        if about.default is inspect.Parameter.empty and needed not in parameters:
            raise UserError(f"{needed}: the divergence {name} needs it, as in divergence={name!r}, {needed}=2.0.")
    for key, value in parameters.items():
        if isinstance(value, bool) or not isinstance(plain(value), int | float):
            raise UserError(f"{key}: got {value!r}, expected a number.")
    given = tuple((key, float(value)) for key, value in sorted(parameters.items()))
    try:
        partial(DIVERGENCES[name], **dict(given))(jnp.zeros(2), jnp.zeros(2))
    except ValueError as error:
        raise UserError(str(error)) from None
    drawn = of.drawn
    cut = drawn is not None and bool(drawn.temperature) and drawn.temperature == temperature
    if name == "reverse_kl" and cut:
        return Chosen(name, given, drawn.top_k, drawn.top_p)  # pyright: ignore
    return Chosen(name, given)


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
    sizes = [model.params["embed"]["embedding"].shape[0] for model in (policy, reference)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"compare: {policy.name} has logits for {sizes[0]} tokens, {reference.name} for {sizes[1]}; expected as many."
        )
