"""The measures, as overrides of experiment=overfitting, which has none of them."""

from collections.abc import Mapping

from kljax.config import Config
from kljax.errors import UserError

WEIGHT_DECAY = ("pretrain.optimizer.weight_decay=6.0",)
DROPOUT = ("model.dropout=0.3",)
AUGMENTATION = ("pretrain.augmentation.delete=0.2", "pretrain.augmentation.mask=0.2")

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "no measure": (),
    "weight decay": WEIGHT_DECAY,
    "dropout": DROPOUT,
    "augmentation": AUGMENTATION,
    "all three": (*WEIGHT_DECAY, *DROPOUT, *AUGMENTATION),
}
"""Early stopping is none of the rows: it is the best look of each, where the others are at their last step."""


def check(configs: Mapping[tuple[str, int], Config]) -> None:
    """Refuse overrides that leave a figure out, stop a fit early, or make two variants one."""
    config = next(iter(configs.values()))
    fit = config.pretrain
    if fit.objective.kind != "classification":
        raise UserError(
            f"pretrain/objective: got {fit.objective.kind}, expected classification, whose accuracy and F1 the study shows."
        )
    if fit.watch != "loss":
        raise UserError(f"pretrain.watch: got {fit.watch}, expected loss, by which the study's early stopping goes.")
    if not fit.train_rows:
        raise UserError("pretrain.train_rows: got 0, expected a number >= 1, for the curve of the training rows.")
    if fit.steps % fit.eval_every:
        raise UserError(
            f"pretrain.steps: got {fit.steps}, expected a multiple of pretrain.eval_every ({fit.eval_every}): looks "
            "at the same steps in every fit."
        )
    if fit.patience < (looks := fit.steps // fit.eval_every):
        raise UserError(
            f"pretrain.patience: got {fit.patience}, expected at least {looks}, as many as there are looks: early stopping is "
            "read from the whole curve."
        )
    seeds = {seed for _, seed in configs}
    for seed in seeds:
        fits = [repr((config.model, config.pretrain)) for (_, s), config in configs.items() if s == seed]
        if len(set(fits)) < len(fits):
            raise UserError(
                "overrides: model.dropout, pretrain.augmentation or pretrain.optimizer.weight_decay is what the variants "
                "differ in, and was set for all of them; expected it to be left out."
            )
