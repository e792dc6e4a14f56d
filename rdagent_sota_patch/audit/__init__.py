"""Whether mined factors see the future, found by running their code on data that ends earlier."""
