"""Models: the zoo, and loading teachers and students by name."""
