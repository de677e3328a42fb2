"""What can be asked and judged, one file a task; see core/tasks.py for what each offers."""
