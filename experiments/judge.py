"""A blinded page on which people judge the completions of two policies, and what came back.

python experiments/judge.py a=runs/grammar/default b=reference out=judging    # the page, and the key that stays with you
python experiments/judge.py score=answers out=judging    # win rate, agreement, bias: judges' files lie in answers
"""

from kljax.commands import start

if __name__ == "__main__":
    start("judge")
