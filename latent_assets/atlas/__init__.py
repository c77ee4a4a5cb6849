"""The atlas table: schema and card, staging a release in LanceDB, checking it, publishing it. No models, no fitting."""
