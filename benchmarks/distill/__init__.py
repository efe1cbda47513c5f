"""What distillation costs and is worth: one script a question."""
