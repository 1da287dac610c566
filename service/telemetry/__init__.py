"""What the outside sees of a running process: logs and metrics. Imports nothing of ours."""
