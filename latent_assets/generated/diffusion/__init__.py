"""Images made from text."""
