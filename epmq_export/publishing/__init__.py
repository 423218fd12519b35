"""What others see of a model: the page of its run, its card, and its files on the hub."""
