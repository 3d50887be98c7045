"""The probes by name: the module that declares each as `PROBE`, and what a list of commands says of it.

To add one: such a file, and a line here.
"""

PROBES: dict[str, tuple[str, str]] = {
    "knn": ("hjepa_eval.evaluation.plans.knn", "Nearest neighbours at every level."),
    "linear": ("hjepa_eval.evaluation.plans.linear", "A linear classifier at every level."),
    "fewshot": ("hjepa_eval.evaluation.plans.few_shot", "Few-shot episodes at every level."),
    "lowshot": ("hjepa_eval.evaluation.plans.low_shot", "Few labels at every level."),
    "attentive": ("hjepa_eval.evaluation.plans.attentive", "Attention over the tokens of every level, and of all."),
    "dense": ("hjepa_eval.evaluation.plans.dense", "Segmentation, depth and places from the tokens of every level."),
}
