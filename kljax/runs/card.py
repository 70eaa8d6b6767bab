"""Model cards: the README.md beside exported weights, as the hub shows it, with what the run says of itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kljax import __version__
from kljax.config import Config, HuggingFaceModel, TextSource
from kljax.data.beginnings import Beginning
from kljax.runs import evaluation_files
from kljax.runs.columns import of_model
from kljax.runs.intervals import OF_FIT
from kljax.runs.markdown import bullets, code, front_matter, plain, table
from kljax.runs.task_figures import labels_of

TASKS = {"decoder": "text-generation", "classifier": "text-classification", "masked_lm": "fill-mask"}
"""Names on the hub for what a model of a kind does."""

KLS = {
    "KL(policy‖reference), nats per sequence": "kl/reverse_exact_seq",
    "KL(policy‖reference), nats per token": "kl/reverse_exact_tok",
    "KL(reference‖policy), nats per sequence": "kl/forward_exact_seq",
}
FIGURES = {"reward": "reward/mean", "tokens a completion": "rollout/length"}

HOW_MEASURED = """\
Each ± is one standard error over distinct prompts. A KL is exact over the vocabulary in each state, no estimate from the tokens
that were drawn; the states of KL(policy‖reference) are those that the policy visits, of KL(reference‖policy) those that the
reference visits."""

RESAMPLED = """\
In brackets: the 95 % interval of a bootstrap over rows, of what other rows from the same source would have given. Held-out rows
chose the step that was kept, so their figures are a little too good; test rows chose nothing."""

GENERATE = """\
```python
from transformers import pipeline

write = pipeline("text-generation", model="DIR")    # this directory
write("the beginning of a text", max_new_tokens={tokens})
```"""

ADAPTED = """\
```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("DIR")    # this directory: adapters over the base model
tokenizer = AutoTokenizer.from_pretrained("DIR")
```"""

UNSAMPLED = (
    "generation_config.json names no way of sampling, and transformers takes the likeliest token then: the model's own "
    "distribution is `do_sample=True, top_k=0, top_p=1.0`."
)

OF_WORDS = (
    "The tokenizer writes words without white space before them: where a program joins a prompt and the text after it, as "
    "transformers' pipeline does, end the prompt with a space."
)
"""The caution about a tokenizer of words."""

READ = """\
```python
from transformers import pipeline

read = pipeline("{task}", model="DIR")    # this directory
```"""


def of_run(path: Path, config: Config, step: int, beta: float, beginning: Beginning | None, base: str | None = None) -> str:
    """The card of a step of an RL run. `base`: what its adapters are for, where these alone are written.

    `beginning` is None where prompts are chats, which have their template's.
    """
    sampling, own = _sampling(config), _own_evaluation(path, step)
    use = GENERATE if base is None else ADAPTED
    how = f"generation_config.json samples as the run did: {sampling}." if base is None else f"The run sampled at {sampling}."
    parts = [
        _front(config, "decoder", ["rlhf", "reinforcement-learning", "kl-regularization"], base),
        f"# {_title(config)}, step {step}",
        "A language model that was fine-tuned against a reward with a penalty for leaving a frozen or slowly moving reference, "
        f"by kljax {__version__}."
        + ("" if base is None else f" These are the LoRA adapters alone, for the model {code(base)}."),
        "## How it was trained",
        bullets(_training(config, step, beta)),
        "## Evaluation",
        f"The run has no evaluation of this step; {code(f'kljax analyze run={path} step={step}')} makes one."
        if own is None
        else _evaluation(own),
        "## How to use it",
        use.format(tokens=config.rollout.max_new_tokens),
        how,
        "## What to be careful of",
        "\n".join(f"- {line}" for line in _cautions(config, beginning, {} if own is None else own["of"])),
    ]
    return "\n\n".join(parts) + "\n"


def of_fit(config: Config, kind: str, result: Mapping[str, Any], beginning: Beginning | None) -> str:
    """The card of a model that was fitted by maximum likelihood; `result` are its figures."""
    fit, task = config.pretrain, TASKS[kind]
    how = {
        "objective": code(fit.objective.kind),
        "updates": f"{fit.steps} at most, of {fit.batch} sequences of {fit.length} tokens",
        "learning rate": f"{fit.optimizer.learning_rate:g}, {fit.optimizer.schedule}",
        "started from": _source(config),
        "data": _data(config),
        "seed": f"{fit.seed} (data: {config.data.seed})",
    }
    figures = {code(name): _fitted(result, name) for name, value in result.items() if isinstance(value, int | float)}
    how_sure = [RESAMPLED] if any(name.endswith(OF_FIT) for name in result) else []
    sampling = "no distribution but the model's own is named: it is fitted, not trained on samples"
    use = (
        GENERATE.format(tokens=config.rollout.max_new_tokens, sampling=sampling)
        if kind == "decoder"
        else READ.format(task=task)
    )
    words = [OF_WORDS] if config.tokenizer.kind == "words" else []
    cautions = [_beginning(beginning), UNSAMPLED, *words] if kind == "decoder" else [
        "The tokenizer puts the beginning and the end around a text by itself, as they were when it was fitted."
    ]  # fmt: skip
    parts = [
        _front(config, kind, ["kljax"], None),
        f"# {_title(config)}",
        f"A model that was fitted on text by kljax {__version__}.",
        "## How it was fitted",
        bullets(how),
        "## Held-out figures",
        bullets(figures) if figures else "There are none.",
        *how_sure,
        "## How to use it",
        use,
        "## What to be careful of",
        "\n".join(f"- {line}" for line in cautions),
    ]
    return "\n\n".join(parts) + "\n"


def _fitted(result: Mapping[str, Any], name: str) -> str:
    """A figure, with its interval where it has one."""
    low_and_high = result.get(name + OF_FIT)
    return f"{result[name]:.6g}" + ("" if low_and_high is None else " [{:.3g}, {:.3g}]".format(*low_and_high))


def _front(config: Config, kind: str, tags: list[str], base: str | None) -> str:
    known = _hub_name(config) if base is None else None if Path(base).is_absolute() else base
    values: dict[str, Any] = {"library_name": "transformers" if base is None else "peft", "pipeline_tag": TASKS[kind]}
    if known is not None:
        values |= {"base_model": known, "base_model_relation": "finetune" if base is None else "adapter"}
    return front_matter(values | {"tags": list(dict.fromkeys([*tags, "kljax", *([] if base is None else ["lora"])]))})


def _hub_name(config: Config) -> str | None:
    """The name of the imported model, where it is one and no directory of somebody's machine."""
    model = config.model
    if not isinstance(model, HuggingFaceModel) or model.path.startswith((".", "/", "~")) or model.path.count("/") > 1:
        return None
    return None if Path(model.path).exists() else model.path


def _title(config: Config) -> str:
    return f"{code(config.name)} {code(config.run.variant)}"


def _training(config: Config, step: int, beta: float) -> dict[str, str]:
    kl, rollout = config.kl, config.rollout
    terms = " + ".join(f"{term.weight:g} · {code(name)} ({code(term.function)})" for name, term in config.reward.items())
    steps = f"step {step} of {config.steps}" + ("" if config.epochs is None else f" ({config.epochs:g} epochs)")
    each = f"{rollout.prompts} prompts with {rollout.samples} completions each and {rollout.updates} update(s)"
    return {
        "algorithm": f"{code(config.algorithm)}, rewards divided by {code(config.reward_scale)}",
        "penalty": f"{code(kl.penalty)}, divergence {code(kl.divergence.kind)}",
        "beta": f"{kl.beta:g} reward units per nat, controller {code(kl.controller.kind)}; at this step {beta:.6g}",
        "reward": terms,
        "reference": f"{_reference(config)}, refreshed: {code(config.reference.refresh.kind)}",
        "trained": f"LoRA of rank {config.adapter.rank}" if config.adapter.kind == "lora" else "every parameter",
        "steps": f"{steps}, a step being {each}",
        "learning rate": f"{config.optimizer.learning_rate:g}, {config.optimizer.schedule}",
        "temperature": f"{rollout.temperature:g}, when sampling and when scoring, of policy and reference alike",
        "started from": _start(config),
        "data": _data(config),
        "seed": f"{config.seed} (base model: {config.pretrain.seed}, data: {config.data.seed})",
    }


def _reference(config: Config) -> str:
    return "the model that training started from" if config.reference.path is None else code(config.reference.path)


def _source(config: Config) -> str:
    model = config.model
    return code(model.path) if isinstance(model, HuggingFaceModel) else f"random weights ({code(model.kind)})"


def _start(config: Config) -> str:
    steps = config.pretrain.steps
    return _source(config) + (f", then at most {steps} updates of maximum likelihood" if steps else "")


def _data(config: Config) -> str:
    source = config.data.source
    named = f"{code(source.kind)}" + (f" {code(source.path)}" if isinstance(source, TextSource) else "")
    return f"{named}; prompts: {code(config.data.prompt.kind)}, at most {config.data.prompt.max_tokens} tokens"


def _sampling(config: Config) -> str:
    return f"temperature {config.rollout.temperature:g}, from the whole distribution (top_k 0, top_p 1)"


def _own_evaluation(path: Path, step: int) -> Mapping[str, Any] | None:
    return next((one for one in evaluation_files.load_all(path) if one["step"] == step and "settings" in one), None)


def _evaluation(own: Mapping[str, Any]) -> str:
    """The run's own figures of this step, with standard errors."""
    metrics, of = own["metrics"], own["of"]
    terms = [name for name in metrics if name.startswith("reward/terms/") and not name.endswith("_se")]
    figures = FIGURES | {f"reward term {code(name.removeprefix('reward/terms/'))}": name for name in terms if len(terms) > 1}
    rows = [["", "policy", "reference"]]
    for label, name in figures.items():
        rows.append([label, _figure(metrics, name), _figure(metrics, of_model("reference", name))])
    for name, label in labels_of(metrics).items():
        rows.append([plain(label), _figure(metrics, name), _figure(metrics, of_model("reference", name))])
    rows += [[label, _figure(metrics, name), ""] for label, name in KLS.items()]
    cut = "".join(f", {each}" for each in _cut(of))
    what = f"{of['samples']} completion(s) of each of {of['prompts']} held-out prompts, seed {of['seed']}{cut}. {HOW_MEASURED}"
    notes = "".join(f"\n\nNote: {plain(note)}" for note in own.get("notes", []))
    return f"{what}\n\n{table(rows)}{notes}"


def _figure(metrics: Mapping[str, Any], name: str) -> str:
    if name not in metrics:
        return ""
    error = metrics.get(f"{name}_se")
    return f"{metrics[name]:.4g}" + ("" if error is None else f" ± {error:.2g}")


def _cut(of: Mapping[str, Any]) -> list[str]:
    """How an evaluation cut the distributions that it drew from; nothing where it did not."""
    return [f"{name} {of[name]:g}" for name, off in (("top_k", 0), ("top_p", 1)) if of.get(name, off) != off]


def _cautions(config: Config, beginning: Beginning | None, of: Mapping[str, Any]) -> list[str]:
    """`of`: what the evaluation that the card shows is of; empty without one."""
    temperature = f"temperature {config.rollout.temperature:g}"
    if cut := _cut(of):
        distance = (
            f"Each KL above is of a distribution at {temperature} that is cut by {' and '.join(cut)} and renormalised, to the "
            "other model's whole one at the same temperature. Sampled from the whole distribution, as the run did, by another "
            "cut or at another temperature it is another policy, at another distance."
        )
    else:
        distance = (
            f"Each KL is of the untruncated policy at {temperature} to the reference at the same temperature. Sampled by "
            "top-k, top-p or at another temperature it is another policy, at another distance."
        )
    found = [distance, _beginning(beginning)]
    if config.reference.refresh.kind != "never":
        found.append("The reference moved: the KL to it bounds no distance from the model that training started from.")
    if config.tokenizer.kind == "words":
        found += [
            "The tokenizer knows the words of the training text alone, divided by white space; others are an error.",
            OF_WORDS,
        ]
    return found


def _beginning(beginning: Beginning | None) -> str:
    if beginning is None:
        return "Prompts were chats in the tokenizer's own template; give it messages, not texts."
    token = code(beginning.token)
    if not beginning.by_itself:
        return (
            f"Every prompt of the run began with {token}, which the tokenizer does not add by itself: write it before the text."
        )
    changed = "" if beginning.sentence is None else ", for which its post-processor was changed when it was exported"
    return (
        f"Every prompt of the run began with {token}. The tokenizer puts it before a text by itself{changed}; with "
        "`add_special_tokens=False` it does not, and the model gets what it never saw."
    )
