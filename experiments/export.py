"""A step of a run as a Hugging Face directory: the whole model for transformers, or its LoRA adapters for PEFT.

python experiments/export.py run=runs/grammar/default out=/tmp/exported
python experiments/export.py run=runs/grammar/default step=60 out=/tmp/exported dtype=bfloat16
python experiments/export.py run=runs/mine/default out=/tmp/adapter merge=false    # of a run with adapter=lora: not merged
"""

from kljax.commands import start

if __name__ == "__main__":
    start("export")
