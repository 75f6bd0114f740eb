"""Questions to servers, and the store of their answers. What is asked, and what an answer means, is said elsewhere."""
