"""RLHF with a reverse-KL penalty: fit the base model if it is not there yet, fine-tune it, look at held-out prompts.

python experiments/train.py
python experiments/train.py experiment=movie_reviews kl.beta=0.05
python experiments/train.py -m kl.beta=0.1,0.3,1 seed=0,1
"""

from kljax.commands import start

if __name__ == "__main__":
    start("train")
