"""The life of a job, from the call to the committed result."""
