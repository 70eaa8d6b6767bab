"""The schema, a file a section: one frozen dataclass each, with types, bounds and a docstring a field (`--help KEY` prints it).

Values live in `configs/` (Hydra), types and docs here, each once. `validation.validate` turns the composed dictionary into a
`Config`; the library sees only the validated object.
"""

from kljax.config.base import AboveZero, Positive, to_dict
from kljax.config.commands import AnalysisConfig, ExportConfig, JudgeConfig
from kljax.config.data import (
    ChatPrompt,
    DataConfig,
    GrammarSource,
    LettersSource,
    PrefixPrompt,
    QuestionsSource,
    RandomWordsSource,
    TextSource,
    WholePrompt,
)
from kljax.config.experiment import Config
from kljax.config.kl import (
    AdaptiveBeta,
    AlphaDivergence,
    FixedBeta,
    JensenShannon,
    KlConfig,
    PenaltyName,
    PlainDivergence,
    Renyi,
    ScheduledBeta,
    TargetBeta,
)
from kljax.config.model import (
    DecoderConfig,
    EncoderConfig,
    HuggingFaceModel,
    LinearScaling,
    Llama3Scaling,
    LoraAdapter,
    NoAdapter,
    RopeScaling,
    YarnScaling,
)
from kljax.config.optimizer import OptimizerConfig
from kljax.config.pretrain import (
    WRITES,
    Augmentation,
    Classification,
    MaskedToken,
    NextToken,
    Preference,
    PretrainConfig,
    RatedPairs,
    Regression,
    Target,
)
from kljax.config.reference import NeverRefresh, ReferenceConfig, RefreshAverage, RefreshEvery
from kljax.config.rollout import RewardTerm, RolloutConfig
from kljax.config.run import EvaluationConfig, KeepConfig, MeshConfig, RunConfig
from kljax.config.task import NoTask, TextTask
from kljax.config.tokenizer import BpeTokenizer, PretrainedTokenizer, WordTokenizer

__all__ = [
    "WRITES",
    "AboveZero",
    "AdaptiveBeta",
    "AlphaDivergence",
    "AnalysisConfig",
    "Augmentation",
    "BpeTokenizer",
    "ChatPrompt",
    "Classification",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "ExportConfig",
    "FixedBeta",
    "GrammarSource",
    "HuggingFaceModel",
    "JensenShannon",
    "JudgeConfig",
    "KeepConfig",
    "KlConfig",
    "LettersSource",
    "LinearScaling",
    "Llama3Scaling",
    "LoraAdapter",
    "MaskedToken",
    "MeshConfig",
    "NeverRefresh",
    "NextToken",
    "NoAdapter",
    "NoTask",
    "OptimizerConfig",
    "PenaltyName",
    "PlainDivergence",
    "Positive",
    "Preference",
    "PrefixPrompt",
    "PretrainConfig",
    "PretrainedTokenizer",
    "QuestionsSource",
    "RandomWordsSource",
    "RatedPairs",
    "ReferenceConfig",
    "RefreshAverage",
    "RefreshEvery",
    "Regression",
    "Renyi",
    "RewardTerm",
    "RolloutConfig",
    "RopeScaling",
    "RunConfig",
    "ScheduledBeta",
    "Target",
    "TargetBeta",
    "TextSource",
    "TextTask",
    "WholePrompt",
    "WordTokenizer",
    "YarnScaling",
    "to_dict",
]
