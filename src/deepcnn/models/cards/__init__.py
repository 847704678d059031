"""Cards of the networks, a module for each family; constants only."""
