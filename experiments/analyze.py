"""Restore any step of a run and recompute reward, both exact KLs and samples on held-out prompts.

python experiments/analyze.py run=runs/grammar/default
python experiments/analyze.py run=runs/grammar/default step=60 prompts=512    # or run=runs/grammar/default@60
python experiments/analyze.py run=runs/grammar/default top_p=0.9    # a policy whose sampling is cut
python experiments/analyze.py run=runs/mine/default rewards=custom    # imports reward functions of the run's own
"""

from kljax.commands import start

if __name__ == "__main__":
    start("analyze")
