"""The cost and the worth of distillation: one script per question."""
