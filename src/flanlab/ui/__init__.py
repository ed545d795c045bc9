"""The browser app: tasks, a template editor, results, and questions to a model; on this computer alone."""
