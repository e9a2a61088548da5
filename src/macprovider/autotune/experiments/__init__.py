"""The method tested on itself: OQ-A to OQ-E."""
