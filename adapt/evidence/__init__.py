"""What a stage did to a model, measured, judged by gates and shown in one report."""
