"""Fits a model by maximum likelihood, which minimises forward KL(data‖model): the base model that kljax train starts from.

python experiments/pretrain.py
python experiments/pretrain.py experiment=movie_reviews model.dropout=0.2

With another pretrain/objective, an encoder's hidden tokens, a classifier, or a reward model (configs/pretrain/objective/):

python experiments/pretrain.py experiment=sst2
"""

from kljax.commands import start

if __name__ == "__main__":
    start("pretrain")
