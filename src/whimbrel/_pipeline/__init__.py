"""From a request to its response, for all backends: see docs/internals/pipeline.md."""
