"""What people touch: command line, chat page, engines. The only place that wires the parts together."""
