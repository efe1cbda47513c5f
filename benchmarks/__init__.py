"""What a backbone is worth: accuracy of a probe on frozen features, and speed."""
