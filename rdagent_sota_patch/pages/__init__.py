"""The pages a person looks at: runs, one run, a problem; rendered here, without a script and without a network."""
