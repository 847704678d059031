"""What each layer costs: counted, measured, and beside what this machine can do."""
