"""Run each job once, whoever asks for it: the life of a job as a state machine, drawn in `coordinator.py`."""
