"""Whether mined factors see the future, found by running their code on data that ends earlier."""

# Here and not in `windows`, since the command's help names them and must not wait for numpy.
LEAST_CUTS = 8
THOROUGH_CUTS = 48
