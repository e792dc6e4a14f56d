"""What `make proof` runs: more attacks, faults, crowds, sizes and mutants than an ordinary test run has time for."""
