"""Recording, replaying and editing runs of a language model; the methods of a paper on entity tracking."""
