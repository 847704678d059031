"""What a run will take, told before it is begun: memory, time, disk."""
