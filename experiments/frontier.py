"""Reward against KL over finished runs: a table, a CSV and a PNG.

python experiments/frontier.py runs/grammar
python experiments/frontier.py runs/grammar/kl.beta-* --out /tmp/frontier
"""

from kljax.commands import start

if __name__ == "__main__":
    start("frontier")
