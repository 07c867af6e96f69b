"""Networks of the zoo, one file per family."""
