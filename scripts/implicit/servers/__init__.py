"""Requests to servers, and the store of their answers. What is asked and what it means is defined elsewhere."""
