"""The runs and fits below a folder: what varies, how far each is, reward and KL, whether anything in it is broken.

python experiments/runs.py
python experiments/runs.py runs/grammar runs/bases
python experiments/runs.py --json

Reward and KL (nats per sequence) are of held-out prompts where a run was evaluated, or else of the last step that it logged.
Age is that of its youngest file. Damaged is what can be seen by names and sizes of files: restoring a step looks at all of it.
"""

from kljax.commands import start

if __name__ == "__main__":
    start("runs")
