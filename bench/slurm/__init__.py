"""Runs as Slurm jobs, through submitit: request, check, submit, requeue, and read the queue and logs."""
