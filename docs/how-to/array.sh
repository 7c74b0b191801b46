#!/bin/bash
#SBATCH --array=0-3
#SBATCH --output=array-%a.log
export BENCHER_JOB_CACHE_DIR=results-$SLURM_ARRAY_TASK_ID
python array_study.py "$SLURM_ARRAY_TASK_ID" "$SLURM_ARRAY_TASK_COUNT"
bencher-job export "array-$SLURM_ARRAY_TASK_ID.tar"
