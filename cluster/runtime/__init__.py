"""The supervisor and what it drives: fleets, services of processes, replay shards, bandits, restarts."""
