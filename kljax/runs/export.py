"""A step of a run for others: weights or adapters, a tokenizer that begins a text as prompts were begun, a model card."""

from pathlib import Path

from kljax.config import Config, ExportConfig
from kljax.data.beginnings import Beginning, as_trained
from kljax.models.huggingface import models as huggingface
from kljax.runs import adapter_export, card
from kljax.runs.restore import RestoredRun
from kljax.types import Tokenizer


def beginning_of(config: Config, tokenizer: Tokenizer) -> Beginning | None:
    """How an exported tokenizer begins a text; None where prompts are chats, whose template begins them."""
    return None if config.data.prompt.kind == "chat" else as_trained(tokenizer)


def export(restored: RestoredRun, config: ExportConfig) -> list[str]:
    """Write this step to `config.out`, which `adapter_export.check` has let pass. What to say of it, beside where it is."""
    setup = restored.setup
    beginning = beginning_of(setup.config, setup.tokenizer)
    notes = [] if beginning is None or beginning.sentence is None else [beginning.sentence]
    if setup.config.tokenizer.kind == "words":
        notes.append(card.OF_WORDS)
    if config.merge:
        tokenizer = setup.tokenizer if beginning is None else beginning.tokenizer
        said = card.of_run(restored.path, setup.config, restored.step, restored.beta, beginning)
        huggingface.save(
            Path(config.out), "decoder", setup.model, setup.vocab_size, restored.policy, tokenizer, config.dtype,
            ends=setup.generation.ends, rollout=setup.config.rollout, card=said,
        )  # fmt: skip
    elif (note := adapter_export.export(restored, config, beginning)) is not None:
        notes.append(note)
    return notes
