"""The atlas table: its schema, staging a release in LanceDB, checking it, publishing it. No models, no fitting."""
