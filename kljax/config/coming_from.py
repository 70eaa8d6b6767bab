"""Keys of TRL's trainers and what they are called here: one table, from which a page and error messages are made.

After a change: python -m kljax.config.coming_from > docs/coming_from_trl.md
"""

from dataclasses import dataclass

HEAD = """\
# Coming from TRL

What keys of TRL's `GRPOConfig`, `RLOOConfig`, `PPOConfig`, `SFTConfig`, `RewardConfig` and `ModelConfig` are called here, and
what differs. Each of them, given to `kljax train`, is answered with its row. (From the table in
kljax/config/coming_from.py.)

TRL's GRPO is nearest to `reward_scale=prompt_std kl.penalty=k3_loss`, its RLOO to `kl.penalty=k1_reward`, both with
`algorithm=rloo`, the default. Here the objective is one of whole sequences (a sum over tokens, a mean over sequences), and the
default penalty is the exact KL over the whole vocabulary.
"""


@dataclass(frozen=True)
class Row:
    """`theirs`: one or more keys of TRL's, in which a last '*' stands for any ending; `ours`: what to write, or None where
    there is nothing of the kind; `note`: what it is here and what differs.
    """

    theirs: str
    ours: str | None
    note: str

    @property
    def names(self) -> list[str]:
        """The keys, one by one."""
        return self.theirs.split(", ")


TABLE: dict[str, tuple[Row, ...]] = {
    "Length, batch and updates": (
        Row("max_steps", "steps", "a step is a rollout with its rollout.updates updates; TRL counts updates"),
        Row("num_train_epochs", "epochs", "passes over the prompts, in the place of steps"),
        Row("total_episodes, num_total_batches", "steps", "a step is rollout.prompts times rollout.samples episodes"),
        Row(
            "per_device_train_batch_size, batch_size, local_batch_size",
            "rollout.prompts",
            "distinct prompts a step on all devices together; TRL counts completions, which are rollout.samples times as many",
        ),
        Row(
            "gradient_accumulation_steps, micro_batch_size",
            "rollout.microbatches",
            "the batch of a step is divided into so many parts, not multiplied by them",
        ),
        Row("num_iterations, num_ppo_epochs", "rollout.updates", "updates of each rollout, each of the whole batch"),
        Row(
            "num_mini_batches, mini_batch_size, local_mini_batch_size, steps_per_generation, generation_batch_size",
            None,
            "every update is of the whole rollout (rollout.updates of them)",
        ),
        Row("seed", "seed", "of sampling, the order of prompts and adapters; the base model has pretrain.seed"),
        Row("data_seed", "data.seed", "of the split and of the prompts' lengths; the order of prompts follows seed"),
        Row("shuffle_dataset", None, "prompts are always shuffled, by seed, anew each epoch"),
    ),
    "Sampling": (
        Row("num_generations, rloo_k", "rollout.samples", "completions a prompt"),
        Row("max_completion_length, response_length", "rollout.max_new_tokens", "tokens a completion"),
        Row(
            "max_prompt_length",
            "data.prompt.max_tokens",
            "of a longer whole text or chat data.prompt.too_long says whether it is refused, dropped or cut",
        ),
        Row("temperature", "rollout.temperature", "of sampling and scoring, of policy and reference alike"),
        Row(
            "top_k, rollout.top_k",
            "evaluation.top_k",
            "training samples from the whole policy: states of a cut one would come from another policy than is scored",
        ),
        Row(
            "top_p, rollout.top_p",
            "evaluation.top_p",
            "training samples from the whole policy: states of a cut one would come from another policy than is scored",
        ),
        Row("min_p", None, "training samples from the whole policy; an evaluation may cut it by top-k or top-p"),
        Row(
            "repetition_penalty, generation_kwargs",
            None,
            "what is sampled is what is scored; repetition has a reward (reward=[…,repetition], with a negative weight)",
        ),
        Row(
            "stop_token, stop_token_id", None, "a completion ends with the tokens that the model's files or its tokenizer name"
        ),
        Row("use_vllm, vllm_*", None, "sampling is a part of the one compiled step, with the weights of the moment"),
        Row(
            "cache_implementation, use_transformers_paged, use_transformers_continuous_batching",
            None,
            "there is one cache; rollout.cache_dtype is its precision",
        ),
    ),
    "Loss and KL": (
        Row(
            "beta",
            "kl.beta",
            "GRPO's multiplies k3 in the loss (kl.penalty=k3_loss) beside rewards that are divided by their deviation "
            "(reward_scale=prompt_std), RLOO's k1 in the reward (kl.penalty=k1_reward); the default here is the exact KL",
        ),
        Row("kl_coef, init_kl_coef", "kl.beta", "PPO's penalty is kl.penalty=k1_reward"),
        Row(
            "adap_kl_ctrl", "kl/controller=adaptive", "with kl.controller.target in nats per sequence and kl.controller.horizon"
        ),
        Row("kl_estimator, kl_penalty", "kl.penalty", "k1 is k1_reward; k3 is k3_reward, whose gradient is not that of the KL"),
        Row("use_bias_correction_kl", "kl.penalty=weighted_k3_loss", "k3 with the weight of the token"),
        Row(
            "epsilon, epsilon_high, delta, cliprange",
            None,
            "nothing is clipped yet: updates after the first of a rollout carry the importance weights of the prefixes",
        ),
        Row(
            "importance_sampling_level, off_policy_mask_threshold",
            None,
            "a token weighs with the importance weight of its whole prefix",
        ),
        Row(
            "loss_type",
            None,
            "the loss is a sum over tokens and a mean over sequences, which is dr_grpo's up to a constant factor",
        ),
        Row("top_entropy_quantile", None, "every token counts"),
        Row("entropy_*, use_adaptive_entropy", None, "the KL is the only regulariser"),
        Row("sapo_*, vespo_*", None, "these losses are not here yet"),
        Row("gamma, lam, vf_coef, cliprange_value", None, "there is no value function and no discount; see algorithm"),
        Row(
            "sync_ref_model, ref_model_sync_steps",
            "reference/refresh=every",
            "the policy of every so many steps (reference.refresh.steps), not a mixture",
        ),
        Row(
            "ref_model_mixup_alpha",
            "reference/refresh=average",
            "a mixture at every step: reference.refresh.decay is 1 - alpha",
        ),
        Row("disable_dropout", None, "RL always samples and scores without dropout; model.dropout is for pretraining"),
        Row("cast_lm_head_to_fp32", None, "log-probs are always computed in float32"),
    ),
    "Reward": (
        Row("reward_funcs", "reward=python", "with reward.python.function=module.function; it is called as TRL calls it"),
        Row(
            "reward_model_name_or_path, reward_model_path",
            "reward=model",
            "with reward.model.arguments.path; reward=model_text for one with another tokenizer",
        ),
        Row("reward_weights", "reward.NAME.weight", "each reward has its own"),
        Row(
            "scale_rewards",
            "reward_scale",
            "group is prompt_std, batch is batch_std, none the default; a scale rescales beta (kl/beta_effective says to what)",
        ),
        Row(
            "normalize_advantages, whiten_rewards",
            "reward_scale=batch_std",
            "it divides only; what is subtracted is the baseline of algorithm",
        ),
        Row("multi_objective_aggregation", None, "rewards are added up with their weights, then scaled"),
        Row("reward_clip_range", None, "clip in the Python function, or give a reward of your own"),
        Row(
            "mask_truncated_completions",
            None,
            "a completion that is cut at rollout.max_new_tokens counts as any other yet",
        ),
        Row("missing_eos_penalty", None, "there is none yet; a Python reward that takes completion_ids can be one"),
        Row("center_rewards_coefficient", None, "a reward's mean changes nothing under a baseline"),
    ),
    "Optimiser": (
        Row("learning_rate", "optimizer.learning_rate", "of pretraining it is pretrain.optimizer.learning_rate"),
        Row("lr_scheduler_type", "optimizer.schedule", "constant, linear or cosine, each after its warm-up"),
        Row("warmup_steps", "optimizer.warmup_steps", "in updates"),
        Row("warmup_ratio", "optimizer.warmup_steps", "a number, not a part of the steps"),
        Row("weight_decay", "optimizer.weight_decay", "of matrices only"),
        Row("adam_beta1", "optimizer.b1", "0.9, as there"),
        Row("adam_beta2", "optimizer.b2", "0.95 where nothing is said, 0.999 there"),
        Row("adam_epsilon", "optimizer.eps", "1e-8, as there"),
        Row("max_grad_norm", "optimizer.clip_norm", "the norm of the whole gradient"),
        Row("optim", None, "it is AdamW"),
    ),
    "Model and memory": (
        Row(
            "model_name_or_path, sft_model_path",
            "model=huggingface",
            "with model.path, its tokenizer (tokenizer=pretrained, tokenizer.path) and pretrain.steps=0",
        ),
        Row("model_revision", "model.revision", "with model=huggingface"),
        Row("model_init_kwargs, trust_remote_code, attn_implementation", None, "models are kljax's own code, from their files"),
        Row("ref_model", "reference.path", "null: the model that training starts from"),
        Row("bf16", "model.dtype=bfloat16", "of activations; what is trained is float32"),
        Row("fp16", None, "half precision is model.dtype=bfloat16"),
        Row("dtype, torch_dtype", "model.dtype", "of activations; of weights that are frozen it is model.param_dtype"),
        Row("gradient_checkpointing, activation_offloading", "model.remat=layer", "or mlp, which recomputes less"),
        Row("use_liger_kernel", None, "logits are made in chunks by themselves (model.logit_chunk)"),
        Row("use_peft", "adapter=lora", "its frozen weights are the reference, too"),
        Row("lora_r", "adapter.rank", "with adapter=lora"),
        Row("lora_alpha", "adapter.alpha", "with adapter=lora"),
        Row("lora_target_modules", "adapter.targets", "of q, k, v, out, gate, up, down; null: every one"),
        Row("lora_dropout, use_rslora, use_dora, lora_modules_to_save", None, "LoRA here is that of Hu et al., on matrices"),
        Row("load_in_4bit, load_in_8bit", None, "frozen weights can be held in bfloat16 (adapter=lora, model.param_dtype)"),
        Row(
            "deepspeed, fsdp_config, ddp_*, ds3_gather_for_generation",
            "mesh",
            "devices along mesh.data, mesh.fsdp, mesh.tensor",
        ),
        Row("torch_compile", None, "the step is always compiled"),
    ),
    "Data": (
        Row("dataset_name", "data/source=text", "with data.source.path, files or a hub name, and data.source.column"),
        Row("dataset_config", "data.source.subset", "of a hub data set, with data/source=text"),
        Row("dataset_train_split", "data.source.split", "of a hub data set, with data/source=text"),
        Row(
            "dataset_test_split",
            "data.held_out_fraction",
            "a part of the rows is held out, or a file of its own (data.source.held_out_path)",
        ),
        Row("dataset_text_field", "data.source.column", "with data/source=text"),
        Row("remove_unused_columns", None, "a Python reward gets the columns that it names"),
        Row("chat_template_kwargs", None, "they are a column of the data"),
        Row("max_length", "pretrain.length", "tokens a sequence in supervised fitting"),
        Row("packing, padding_free", None, "next-token fitting cuts its texts into windows"),
        Row("completion_only_loss, assistant_only_loss", None, "supervised fitting predicts every token"),
        Row("dataloader_*, dataset_num_proc, dataset_streaming", None, "prompts are made once, before the first step"),
    ),
    "Run": (
        Row("output_dir", "run.root", "runs lie in <run.root>/<name>/<variant>"),
        Row("run_name", "name", "runs lie in <run.root>/<name>/<variant>; the variant is named by the command line"),
        Row("resume_from_checkpoint, overwrite_output_dir", None, "the same command goes on with its run"),
        Row("logging_steps", "run.log_every", "steps between lines of metrics.jsonl"),
        Row("save_steps", "run.save_every", "steps between checkpoints"),
        Row("save_strategy", "run.save_every", "steps between checkpoints; the best one by evaluation.best is saved, too"),
        Row(
            "save_total_limit",
            "run.keep.last",
            "the newest ones; beside them every so many saves (run.keep.every) and the best",
        ),
        Row(
            "eval_steps, eval_strategy, do_eval, eval_on_start",
            "evaluation.every",
            "steps between looks while it trains, from before the first on; a run is evaluated after its last step in any case",
        ),
        Row(
            "metric_for_best_model, greater_is_better",
            "evaluation.best",
            "objective (reward - kl.beta times KL) or reward, on held-out prompts, with evaluation.every; higher is better",
        ),
        Row(
            "load_best_model_at_end",
            None,
            "a run ends with its last step; the best one is step=best of kljax analyze and kljax export, or run=…@best",
        ),
        Row("per_device_eval_batch_size", "evaluation.prompts", "held-out prompts, all of them at once"),
        Row("num_generations_eval", "evaluation.samples", "completions a held-out prompt"),
        Row("log_completions, num_sample_generations", "run.sample_every", "steps between entries of samples.jsonl"),
        Row("num_completions_to_print", "run.samples_shown", "completions an entry of samples.jsonl"),
        Row(
            "report_to", "track", "a list: tensorboard, wandb, mlflow; metrics.jsonl is always written into the run's directory"
        ),
        Row("logging_dir", None, "a run writes metrics.jsonl and TensorBoard's files into its directory"),
        Row("push_to_hub, hub_*", None, "kljax export writes a Hugging Face directory"),
    ),
}


def rows() -> list[Row]:
    """All rows."""
    return [row for section in TABLE.values() for row in section]


def answer(key: str) -> str | None:
    """A sentence on what a key of TRL's is here; None for any other key.

    A key below a section is one of TRL's by its last part, but not below `pretrain`, of which TRL's keys do not speak.
    """
    if key.startswith("pretrain."):
        return None
    name = key if any(key in row.names for row in rows()) else key.rpartition(".")[2]
    for row in rows():
        if not any(name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in row.names):
            continue
        if "." in name:
            return f"There is {row.ours}: {row.note}."
        return f"TRL's {name} {'has no counterpart' if row.ours is None else f'is {row.ours} here'}: {row.note}."
    return None


def page() -> str:
    """docs/coming_from_trl.md."""
    parts = [HEAD]
    for section, listed in TABLE.items():
        lines = [f"## {section}", "", "| TRL | kljax | |", "|---|---|---|"]
        for row in listed:
            theirs = ", ".join(f"`{name}`" for name in row.names if "." not in name)
            lines.append(f"| {theirs} | {'–' if row.ours is None else f'`{row.ours}`'} | {row.note} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
