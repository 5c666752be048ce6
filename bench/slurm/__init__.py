"""Runs on a Slurm cluster, through submitit: what is asked for, checked, submitted, survived and seen."""
