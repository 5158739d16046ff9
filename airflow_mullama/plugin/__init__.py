"""The UI tab *Mullama* of a task instance and of a run, and the routes that serve it."""
