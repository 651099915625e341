"""What tells a student whether an exercise is solved, and in words what is wrong."""
