"""Avatars that speak while one listens: clock, engine, sessions and the server around them."""
