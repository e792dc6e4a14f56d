"""Factor codes in the styles of public repositories: half see the future, half do not; and a folder to run them on."""
