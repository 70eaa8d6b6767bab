"""The objectives of supervised fitting, each a row of the table at the end."""

from collections.abc import Callable
from dataclasses import dataclass

from kljax.data import augmentation
from kljax.errors import UserError
from kljax.fitting.language_objectives import masked_token, next_token
from kljax.fitting.objective import Objective
from kljax.fitting.targets import target
from kljax.fitting.text_objectives import classification, preference, rated_pairs, regression
from kljax.models.huggingface.names import Kind
from kljax.runs.setup import Setup


def build(setup: Setup) -> Objective:
    """The config's objective, its data made ready, or a `UserError` about what does not fit it."""
    config = setup.config.pretrain
    row = OBJECTIVES[config.objective.kind]
    if config.watch not in row.watch:
        raise UserError(
            f"pretrain.watch: got {config.watch}, a figure that pretrain/objective={config.objective.kind} does not have; "
            f"expected {' or '.join(row.watch)}."
        )
    if row.no_noise and not augmentation.is_off(config.augmentation):
        raise UserError(
            f"pretrain.augmentation: pretrain/objective={config.objective.kind} {row.no_noise}; expected 0 for delete, swap "
            "and mask."
        )
    return row.build(setup)


def kind_of(setup: Setup) -> Kind:
    """The kind of the objective's model in a Hugging Face directory."""
    return OBJECTIVES[setup.config.pretrain.objective.kind].kind


def watched(setup: Setup, objective: Objective) -> str:
    """The name of the held-out figure by which the best parameters are known."""
    watch = setup.config.pretrain.watch
    return objective.loss_name if watch == "loss" else watch


@dataclass(frozen=True)
class Row:
    """How an objective is built, what its model is called in a file, and which held-out figures can be watched.

    `no_noise` says why its texts get no augmentation; "" where they do.
    """

    build: Callable[[Setup], Objective]
    kind: Kind
    watch: tuple[str, ...]
    no_noise: str = ""


HIDES = "has noise of its own, anew at each step (pretrain.objective.probability), and would learn that of others"
OF_CLASSES = ("loss", "accuracy", "precision", "recall", "f1", "macro_f1", "brier", "calibration_error")
OF_PAIRS = ("loss", "agreement", "brier", "calibration_error")

OBJECTIVES = {
    "next_token": Row(next_token, "decoder", ("loss",), "would learn to write the noise"),
    "target": Row(target, "decoder", ("loss",), "would answer prompts that nobody asks, or learn to write the noise"),
    "masked_token": Row(masked_token, "masked_lm", ("loss", "accuracy"), HIDES),
    "classification": Row(classification, "classifier", OF_CLASSES),
    "regression": Row(regression, "classifier", ("loss", "rmse", "pearson", "spearman", "agreement")),
    "preference": Row(preference, "classifier", OF_PAIRS),
    "rated_pairs": Row(rated_pairs, "classifier", OF_PAIRS),
}
"""`pretrain.objective.kind` → what it is."""
