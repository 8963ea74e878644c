"""What is true: the lifecycle table, the messages, the rows and the statements that carry a rule."""
