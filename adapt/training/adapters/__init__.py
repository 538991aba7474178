"""A model and a method → the model with what the method adds to it, alone trainable; one file for each family."""
