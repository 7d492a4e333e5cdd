"""The run on Ray: processes, their places and what they print. Nothing else in the project imports Ray."""
