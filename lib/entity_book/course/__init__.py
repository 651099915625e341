"""The course: exercises in which the methods are written by hand, their editions, and what is stored for them."""
