"""Parts of the runner's page: what became of every quantum, the graph of stages, the grid, the tabs below."""
