"""Names of the distillation losses among all losses of a step; imports no torch."""

#: What they begin with: `distill_pkd_encoder`, `distill_class`.
PREFIX = "distill_"
