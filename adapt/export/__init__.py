"""A registered model or adapter → the forms in which models are served elsewhere."""
