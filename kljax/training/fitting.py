"""Maximum likelihood: minimises the forward KL(data‖model) up to the data's own entropy. Makes the base models.

Early stopping on the held-out rows keeps the best parameters; dropout and decoupled weight decay are the model's and the
optimiser's. (KL to a reference is a preference among distributions, not a cure for overfitting: these are.)
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from kljax.data import bigram, grammar
from kljax.data.batches import TokenRows, token_rows
from kljax.errors import UserError
from kljax.kl import controllers
from kljax.kl.sequences import masked_sum
from kljax.models.scoring import token_logp
from kljax.training import run_directory
from kljax.training.checkpoints import Checkpoints, save_reference
from kljax.training.interrupt import Interrupted, StopRequest
from kljax.training.mesh import batch_sharding, replicated
from kljax.training.progress import ProgressBar
from kljax.training.state import Leaf, TrainState, initial_state, make_optimizer, state_shapes, state_shardings
from kljax.training.task import Task, base_identity, base_path
from kljax.types import Params, struct

RESULT = "result.json"


@struct
class FitState:
    """A train state with what early stopping remembers."""

    train: TrainState
    best_params: Params
    best_nats: Leaf
    looks_since_best: Leaf


@dataclass(frozen=True)
class Program:
    """The compiled parts of a fit."""

    init: Callable[[], FitState]
    step: Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Array]]]
    held_out: Callable[[Params], np.ndarray]
    shapes: FitState
    shardings: FitState


def ensure_base(task: Task) -> Path:
    """The directory of the config's base model, fitted first where it is not there yet. An interrupted fit goes on."""
    path = base_path(task)
    if (path / RESULT).exists():
        return path
    run_directory.check_owner(path, base_identity(task))
    length = task.config.pretrain.length
    train, held_out = (
        token_rows(task.tokenizer, list(rows["text"]), length) for rows in (task.splits.train, task.splits.held_out)
    )
    _check_windows(task, held_out)
    program = _compile(task, held_out)
    run_directory.create(path, base_identity(task))
    task.tokenizer.save_pretrained(str(path / "tokenizer"))
    state = _fit(task, program, train, held_out, path)
    save_reference(path, state.best_params)
    result = _result(task, program, state, train, held_out)
    run_directory.write_atomically(path / RESULT, json.dumps(result, indent=2) + "\n")
    return path


def _check_windows(task: Task, held_out: TokenRows) -> None:
    """The grammar's exact log-probs are of whole sentences, so each has to fit into one window."""
    if task.config.data.source.kind == "grammar" and len(held_out.tokens) != len(task.splits.held_out):
        longest = max(len(text.split()) for text in task.splits.held_out["text"]) + 2
        raise UserError(
            f"pretrain.length: got {task.config.pretrain.length}, expected at least {longest}, so that the grammar's longest "
            "sentence with its beginning and end fits into one window."
        )


def read_result(path: Path) -> dict[str, float | int]:
    """The held-out figures of a finished base model."""
    return json.loads((path / RESULT).read_text())


def _fit(task: Task, program: Program, train: TokenRows, held_out: TokenRows, path: Path) -> FitState:
    config = task.config.pretrain
    checkpoints = Checkpoints(path)
    state = program.init()
    if done := checkpoints.steps():
        state = checkpoints.restore(done[-1], program.shapes, program.shardings, reference_hash="none")
    first = int(state.train.step)
    log = run_directory.MetricsLog(path, first)
    sharding = batch_sharding(task.mesh)
    try:
        with StopRequest() as stop, ProgressBar(f"base model {path.name}", first, config.steps) as bar:
            figures, started = {}, time.perf_counter()
            for step in range(first, config.steps):
                if int(state.looks_since_best) >= config.patience:
                    break
                batch = jax.device_put(train.batch(config.seed, step, config.batch), sharding)
                trained, metrics = program.step(state.train, *batch)
                state = replace(state, train=trained)
                if (step + 1) % config.eval_every == 0 or step + 1 == config.steps:
                    held = _tokens_mean(program.held_out(trained.params), held_out)
                    state = _remember(state, held, task)
                    values = {name: float(value) for name, value in metrics.items()}
                    log.write(step, values | {"fit/held_out_nats_tok": held, "time/seconds": time.perf_counter() - started})
                    figures = {"train": values["fit/train_nats_tok"], "held-out": held}
                    checkpoints.save(step + 1, state, "none")
                bar.show(step + 1, figures)
                if stop.asked:
                    checkpoints.save(step + 1, state, "none")
                    raise Interrupted(
                        f"Stopped while fitting the base model, saved at step {step + 1}. The same command goes on from there."
                    )
    finally:
        checkpoints.close()
        log.close()
    return state


def _remember(state: FitState, held_out_nats: float, task: Task) -> FitState:
    """Keep the parameters if they are the best so far."""
    if held_out_nats < float(state.best_nats):
        whole = replicated(task.mesh)
        best = jax.tree.map(jnp.copy, state.train.params)
        nats, looks = jax.device_put((np.float32(held_out_nats), np.int32(0)), whole)
        return replace(state, best_params=best, best_nats=nats, looks_since_best=looks)
    return replace(state, looks_since_best=state.looks_since_best + 1)


def _compile(task: Task, held_out: TokenRows) -> Program:
    config, arch = task.config.pretrain, task.architecture
    optimizer = make_optimizer(config.optimizer, config.steps)
    controller = controllers.fixed(0.0)
    shapes = state_shapes(arch.shapes, optimizer, controller)
    shardings = state_shardings(shapes, optimizer, arch)
    whole = replicated(task.mesh)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    count = jax.ShapeDtypeStruct((), jnp.int32)

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None))
    def step(state: TrainState, tokens, mask):
        key = jax.random.fold_in(state.key, state.step)

        def loss(params):
            logp = token_logp(nnx.merge(arch.graphdef, params), tokens, mask, dropout_key=key)
            return -masked_sum(logp, mask[:, 1:]).sum() / mask[:, 1:].sum()

        nats, gradients = jax.value_and_grad(loss)(state.params)
        changes, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        new = replace(state, params=optax.apply_updates(state.params, changes), opt_state=opt_state, step=state.step + 1)
        return new, {"fit/train_nats_tok": nats, "fit/grad_norm": optax.tree.norm(gradients)}

    @jax.jit
    def row_nats(params, tokens, mask):
        return -masked_sum(token_logp(nnx.merge(arch.graphdef, params), tokens, mask), mask[:, 1:])

    def init() -> FitState:
        params = arch.init(task.config.model, config.seed)
        train = initial_state(params, optimizer, controller, config.seed, shardings)
        infinity, zero = jax.device_put((np.float32(np.inf), np.int32(0)), whole)
        return FitState(train, params, infinity, zero)

    return Program(
        init=init,
        step=step,
        held_out=partial(_over_rows, row_nats, held_out, config.batch, batch_sharding(task.mesh)),
        shapes=FitState(shapes, arch.shapes, number, count),
        shardings=FitState(shardings, arch.shardings, whole, whole),
    )


def _over_rows(row_nats, rows: TokenRows, batch: int, sharding, params: Params) -> np.ndarray:
    """Nats of each row, in batches of one shape: the last is filled up with rows that are not counted."""
    total, nats = len(rows.tokens), []
    for start in range(0, total, batch):
        chosen = np.arange(start, start + batch) % total
        nats.append(np.asarray(row_nats(params, *jax.device_put((rows.tokens[chosen], rows.mask[chosen]), sharding))))
    return np.concatenate(nats)[:total]


def _tokens_mean(row_nats: np.ndarray, rows: TokenRows) -> float:
    return float(row_nats.sum(dtype=np.float64) / rows.mask[:, 1:].sum())


def _result(task: Task, program: Program, state: FitState, train: TokenRows, held_out: TokenRows) -> dict[str, float | int]:
    """Held-out figures of the parameters that were kept, per token of this tokenizer."""
    nats = program.held_out(state.best_params)
    mean = _tokens_mean(nats, held_out)
    baseline = bigram.held_out_nats(train, held_out, task.architecture.vocab_size)
    result = {
        "steps": int(state.train.step),
        "held_out_nats_tok": mean,
        "held_out_perplexity_tok": math.exp(mean),
        "bigram_nats_tok": baseline,
        "bigram_perplexity_tok": math.exp(baseline),
    }
    if task.config.data.source.kind == "grammar":
        truth = np.array([grammar.logp(text) for text in task.splits.held_out["text"]])
        excess = nats + truth  # −log p_model − (−log p_data): its mean over data is the forward KL
        result |= {
            "grammar_entropy_nats_tok": grammar.entropy_per_token(),
            "forward_kl_data_model_seq": float(excess.mean()),
            "forward_kl_data_model_seq_se": float(excess.std(ddof=1) / math.sqrt(len(excess))),
            "forward_kl_data_model_tok": float(excess.sum() / held_out.mask[:, 1:].sum()),
        }
    return result
