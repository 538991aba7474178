"""What measurements of search share: pipelines, indexes, embedders, tuning."""
