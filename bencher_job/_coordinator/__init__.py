"""Run each job once: the life of a job as a state machine, drawn in `coordinator.py`."""
