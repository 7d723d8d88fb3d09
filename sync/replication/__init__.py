"""Local changes on their way out, and peers' changes on their way in."""
