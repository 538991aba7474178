"""Query and passages → scores, by a language model that is asked: one at a time, in lists, in pairs, or by a server."""
