#!/bin/bash
#SBATCH --job-name=study
#SBATCH --time=2-00:00:00
#SBATCH --output=study.log
#SBATCH --open-mode=append
#SBATCH --requeue
exec python slurm_study.py
