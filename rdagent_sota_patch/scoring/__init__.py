"""A bundle's model as it was trained: processors, samples and weights, read without unpickling; and its replay."""
