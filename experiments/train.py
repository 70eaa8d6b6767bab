"""RLHF with a reverse-KL penalty: fit the base model if it is not there yet, fine-tune it, look at held-out prompts.

python experiments/train.py
python experiments/train.py experiment=movie_reviews kl.beta=0.05
python experiments/train.py -m kl.beta=0.1,0.3,1 seed=0,1
"""

from kljax.analysis import evaluation, evaluation_files, tables
from kljax.command_line import launch
from kljax.config import Config
from kljax.training.loop import train
from kljax.training.restore import restore
from kljax.training.task import set_up_process


def run(config: Config) -> None:
    set_up_process(config)
    path = train(config)
    result = evaluation.evaluate(restore(path, "latest", config.mesh), config.evaluation)
    evaluation_files.save_own(result, path)
    tables.show_evaluation(result, path)
    tables.show_paths(path)


if __name__ == "__main__":
    launch(run, Config)
