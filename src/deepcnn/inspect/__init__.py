"""Looking inside a finished model: one module a view. Files are read only."""
