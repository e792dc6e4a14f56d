"""The plugin as a patch of RD-Agent's source, for people who run RD-Agent from a checkout."""
