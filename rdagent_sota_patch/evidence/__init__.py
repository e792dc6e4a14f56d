"""How sure a result is: every trial that led to it, and statistics that count them."""
